# Overture. `make demo` and `make test` do all set-up themselves; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
OVERTURE_HOME ?= $(CURDIR)/.overture
export OVERTURE_HOME

SOURCE ?= simulate
DATA ?=
DSG17 ?=
CONFIG ?=
WEEK ?=
QUICK ?=
ONLY ?=
PORT ?=
STORE ?=
comma := ,

JOBS := .venv/jobs/bin/python
AIRFLOW := .venv/airflow/bin/python
UV := .venv/tools/bin/uv
UV_VERSION := 0.13.9
RUN := $(JOBS) -m

# uv does not read pip's settings: hand on what pip was told about where packages lie. Nothing of a machine stands here.
define hand_on
pip_says() { .venv/tools/bin/pip config list | sed -nE "s/^[a-z:]+\.$$1='(.*)'$$/\1/p" | head -1; }
found=$$(pip_says find-links);      [ -z "$$found" ] || export UV_FIND_LINKS="$${UV_FIND_LINKS:-$${found// /,}}"
found=$$(pip_says index-url);       [ -z "$$found" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$found}"
found=$$(pip_says extra-index-url); [ -z "$$found" ] || export UV_INDEX="$${UV_INDEX:-$$found}"
found=$$(pip_says cert);            [ -z "$$found" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$found}"
export UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT="$${UV_HTTP_TIMEOUT:-180}" UV_INDEX_STRATEGY=unsafe-best-match
endef

.PHONY: help
help: ## list what make can do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/; s/\$$\$$/$$/g' | expand -t 12
	echo
	echo "make demo SOURCE=tables DATA=<folder>   your own data, mapped by DATA/overture.yaml or CONFIG=<file>"
	echo "make demo SOURCE=mpd DATA=<folder>   real playlists; also CONFIG=<file of settings> and WEEK=<Monday>"
	echo "make demo SOURCE=yambda DATA=<folder>   the Yambda dataset, or files of make-yambda"
	echo "make demo SOURCE=dsg17              the skip engine's week, on made-up plays; DATA=<folder> for real ones"
	echo "State lies in $(OVERTURE_HOME) (OVERTURE_HOME)."

.PHONY: setup
setup: java openmp .venv/jobs/made .venv/jobs/spark.jsa .venv/airflow/made ## both environments and Java; skipped when done and the locks are unchanged

.venv/tools/made:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null || {
	  echo "set-up: Python 3.11 or newer is needed; found '$(PYTHON)'. Say where it is: make PYTHON=/path/to/python3.11"
	  exit 1; }
	"$(PYTHON)" -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

# An environment is made anew when its locks changed in content; a newer time alone changes nothing.
define environment
@hash=$$(cat $(2) | sha256sum | cut -d' ' -f1)
if [ -x .venv/$(1)/bin/python ] && [ "$$(cat $@ 2>/dev/null)" = "$$hash" ]; then touch $@; exit 0; fi
$(hand_on)
echo "set-up: .venv/$(1) (once, and when the locks change)"
$(UV) venv --quiet --clear --python "$(PYTHON)" .venv/$(1)
$(UV) pip install --quiet --python .venv/$(1)/bin/python $(foreach file,$(filter requirements/%,$(2)),-r $(file))
$(3)
echo "$$hash" > $@
endef

.venv/jobs/made: .venv/tools/made requirements/jobs.txt requirements/dev.txt setup.py pyproject.toml blockfactor/pyproject.toml
	$(call environment,jobs,requirements/jobs.txt requirements/dev.txt setup.py blockfactor/pyproject.toml,$(UV) pip install --quiet --python $(JOBS) --no-deps --no-build-isolation -e . -e ./blockfactor)

.venv/airflow/made: .venv/tools/made requirements/airflow.txt requirements/dev-airflow.txt
	$(call environment,airflow,requirements/airflow.txt requirements/dev-airflow.txt,:)

# Java's classes for Spark in one file: sessions on one machine start faster.
.venv/jobs/spark.jsa: .venv/jobs/made | java
	@said=$$($(RUN) jobs.platform.spark 2>&1) || { echo "$$said" | tail -20; echo "set-up: Spark did not start; see above"; exit 1; } >&2
	grep set-up <<< "$$said"; touch $@

.PHONY: java
java:
	@java_major() { "$${JAVA_HOME:+$$JAVA_HOME/bin/}java" -version 2>&1 | sed -nE '1,3s/.*version "([0-9]+).*/\1/p'; }
	if [ "$$(java_major || true)" -ge 17 ] 2>/dev/null; then exit 0; fi
	root=""; [ "$$(id -u)" = 0 ] || root="sudo -n"
	if [ -z "$${JAVA_HOME:-}" ] && command -v apt-get >/dev/null && $$root true 2>/dev/null; then
	  echo "set-up: Java 17 with apt"
	  install="$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends openjdk-17-jre-headless"
	  $$install >/dev/null 2>&1 || { $$root apt-get update -qq && $$install >/dev/null; } || true
	fi
	if [ "$$(java_major || true)" -ge 17 ] 2>/dev/null; then exit 0; fi
	echo "set-up: Java 17 or newer is needed by Spark; found '$${JAVA_HOME:-no JAVA_HOME}'. Install it (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME." >&2
	exit 1

# LightGBM's wheel leaves OpenMP's runtime to the system.
.PHONY: openmp
openmp:
	@if ! command -v ldconfig >/dev/null || ldconfig -p | grep -q 'libgomp[.]so[.]1'; then exit 0; fi
	root=""; [ "$$(id -u)" = 0 ] || root="sudo -n"
	echo "set-up: OpenMP's runtime with apt"
	install="$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends libgomp1"
	$$install >/dev/null 2>&1 || { $$root apt-get update -qq && $$install >/dev/null; } || true
	if ldconfig -p | grep -q 'libgomp[.]so[.]1'; then exit 0; fi
	echo "set-up: libgomp is needed by LightGBM. Install it (Debian: apt install libgomp1)." >&2
	exit 1

# Servers and browser that tests use; a test whose program is absent is skipped with the reason. Installed only in a container:
# on a desk apt would start a Redis server of its own.
.PHONY: test-programs
test-programs:
	@if [ -d /run/systemd/system ] || ! command -v apt-get >/dev/null; then exit 0; fi
	missing=""
	command -v redis-server >/dev/null || missing="$$missing redis-server"
	command -v chromium >/dev/null || missing="$$missing chromium"
	command -v mvn >/dev/null || missing="$$missing maven"
	command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"
	[ -n "$$missing" ] || exit 0
	root=""; [ "$$(id -u)" = 0 ] || root="sudo -n"
	if $$root true 2>/dev/null; then
	  echo "set-up:$$missing with apt, for tests"
	  install="$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends$$missing"
	  $$install >/dev/null 2>&1 || { $$root apt-get update -qq && $$install >/dev/null; } || true
	fi

.PHONY: lock
lock: .venv/tools/made ## resolve requirements/*.in into the locks
	@$(hand_on)
	compile="$(UV) pip compile --quiet --no-header --no-annotate --upgrade --python-version 3.11"
	$$compile requirements/jobs.in -o requirements/jobs.txt
	$$compile requirements/service.in -c requirements/jobs.txt -o requirements/service.txt
	$$compile requirements/dev.in -c requirements/jobs.txt -o requirements/dev.txt
	$$compile requirements/airflow.in -o requirements/airflow.txt
	$$compile requirements/dev-airflow.in -c requirements/airflow.txt -o requirements/dev-airflow.txt

.PHONY: demo
demo: setup ## one week through Airflow: from raw events to a promoted release (SOURCE=simulate|tables|mpd|lastfm_1k|listenbrainz|yambda|dsg17 DATA= CONFIG= WEEK=)
	@$(RUN) jobs.local.demo --source "$(SOURCE)" --data "$(DATA)" --config "$(CONFIG)" --week "$(WEEK)"

# Cassandra's jars (66 MB, once); without them its tests are skipped with the reason.
.PHONY: test-cassandra
test-cassandra: setup test-programs
	@$(RUN) jobs.local.cassandra || true

.PHONY: test
test: setup test-programs test-cassandra ## every test, in both environments; ends with a list of what was skipped and why
	@failed=""
	$(JOBS) -m pytest tests --ignore tests/dags -rs || failed="$$failed jobs"
	$(AIRFLOW) -m pytest tests/dags -rs -W ignore::pytest.PytestConfigWarning || failed="$$failed airflow"
	if [ -n "$$failed" ]; then echo "make test: FAILED in the environment(s):$$failed"; exit 1; fi
	echo "make test: all passed"

.PHONY: test-fast
test-fast: setup ## unit tests alone, in less than three minutes: no Spark, Airflow, browser or server
	@$(JOBS) -m pytest tests --ignore tests/dags --ignore tests/end_to_end -m "not spark and not server"

.PHONY: coverage
coverage: setup test-programs test-cassandra ## every test of the jobs environment, and the lines that they cover
	@$(JOBS) -m pytest tests --ignore tests/dags --cov --cov-report=term:skip-covered

.PHONY: lint
lint: setup site ## style, types, compose file, images, documentation and its links
	@.venv/jobs/bin/ruff check .
	.venv/jobs/bin/ruff format --check .
	.venv/jobs/bin/mypy
	MYPYPATH=dags .venv/jobs/bin/mypy --python-executable $(AIRFLOW) dags/*.py
	.venv/jobs/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose*.yaml
	.venv/jobs/bin/hadolint $$(find docker .devcontainer -name '*Dockerfile*' -type f)

# Mermaid draws the diagrams of the documentation: one script out of its npm package, of this very content.
MERMAID := 11.17.2
MERMAID_SHA256 := 581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8

.venv/docs/mermaid.min.js: Makefile
	@mkdir -p .venv/docs
	if echo "$(MERMAID_SHA256)  $@" | sha256sum --check --status 2>/dev/null; then touch $@; exit 0; fi
	if ! command -v npm >/dev/null; then echo "docs: npm is needed for Mermaid's script. Install it (Debian: apt install npm)." >&2; exit 1; fi
	cd .venv/docs
	tar --extract --gzip --to-stdout --file "$$(npm pack --silent mermaid@$(MERMAID))" package/dist/mermaid.min.js > mermaid.new
	rm mermaid-$(MERMAID).tgz
	echo "$(MERMAID_SHA256)  mermaid.new" | sha256sum --check --status || { echo "docs: Mermaid's script is not the expected one" >&2; exit 1; }
	mv mermaid.new mermaid.min.js

.PHONY: site
site: setup .venv/docs/mermaid.min.js
	@NO_MKDOCS_2_WARNING=1 .venv/jobs/bin/mkdocs build --quiet --strict
	$(RUN) tools.check_site .venv/docs/site

.PHONY: docs
docs: site ## build the documentation and show it at http://127.0.0.1:8700
	@echo "docs: http://127.0.0.1:8700 (Ctrl-C ends it)"
	$(JOBS) -m http.server --bind 127.0.0.1 --directory .venv/docs/site 8700

.PHONY: reference
reference: setup ## write the generated pages of docs/ again
	@$(RUN) tools.reference
	UPDATE_GOLDEN=1 $(AIRFLOW) -m pytest tests/dags/test_reference.py -W ignore::pytest.PytestConfigWarning

.PHONY: screenshots
screenshots: setup test-programs ## take the pictures of README and docs again, from a demo of its own (Chromium; ten minutes)
	@$(RUN) tools.screenshots

.PHONY: serve
serve: setup ## the service over the champion: http://127.0.0.1:8600, its API at /docs (PORT=)
	@.venv/jobs/bin/overture serve $(if $(PORT),--port $(PORT))

.PHONY: up
up: setup ## Airflow's and MLflow's pages and the service, until `make down` (STORE=redis|cassandra: with that store of known listeners)
	@$(RUN) jobs.local.services up $(STORE)

.PHONY: down
down: ## end what `make up` started
	@if [ -x $(JOBS) ]; then $(RUN) jobs.local.services down; else echo "Nothing is running."; fi

.PHONY: status
status: setup ## champion, week, metrics, verdict, versions; and what is up
	@.venv/jobs/bin/overture status
	$(RUN) jobs.local.services state

.PHONY: env
env: ## lines for a shell in which `overture` and `airflow` work: eval "$$(make -s env)"
	@$(RUN) jobs.local.services env

.PHONY: bench
bench: setup ## measure against the peers (hours on two cores; QUICK=1 ONLY=als,svd DATA=<playlists> DSG17=<folder>; the service where a champion is); writes benchmarks/results
	@only="$(ONLY)"; only="$${only:-als,svd,segments,track_index,paper,recipes,growth,ingest,slices,new_releases,skip_features,skip_scale$(if $(DATA),$(comma)pairs$(comma)playlists$(comma)ranker$(comma)ablation$(comma)baselines$(comma)graph_segments$(comma)dimensions)$(if $(DSG17),$(comma)skip$(comma)time_and_context)$(if $(wildcard $(OVERTURE_HOME)/releases/champion.json),$(comma)service$(comma)overload$(comma)events$(comma)gate)}"
	for name in $${only//,/ }; do
	  data=""; case "$$name" in svd | pairs | playlists | ranker | ablation | baselines | graph_segments | dimensions) data="$(DATA:%=--data %)" ;; skip | time_and_context) data="$(DSG17:%=--data %)" ;; esac
	  echo "== benchmarks/$$name.py"
	  $(JOBS) benchmarks/$$name.py $(if $(QUICK),--quick) $$data
	done
	$(JOBS) benchmarks/report.py

.PHONY: clean
clean: ## list all state and caches; YES=1 deletes them: lake, releases, MLflow and Airflow databases
	@if [ -x $(JOBS) ]; then YES="$(YES)" $(RUN) jobs.local.services clean; else echo "Nothing to delete."; fi
