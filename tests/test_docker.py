"""Test the images and the compose file without a container engine."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("Dockerfile.*"))
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_every_variable_is_documented_and_every_secret_is_empty():
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text())) - {
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
    }
    lines = (DOCKER / ".env.example").read_text().splitlines()
    documented = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(documented) == used
    required = set(re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text()))
    assert {name for name, value in documented.items() if not value} == required


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_have_health_checks_pinned_versions_and_no_root_user(name):
    service = COMPOSE["services"][name]
    assert "healthcheck" in service
    assert service["image"] in ("overture-jobs", "overture-airflow", "overture-service") or re.search(
        r":\d+\.\d+", service["image"]
    )
    assert name == "postgres" or service["user"] == "10001:10001"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for other in service.get("depends_on", {}):
        assert other in COMPOSE["services"]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (DOCKER / source).exists()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_images_copy_existing_files_and_do_not_run_as_root(file):
    text = file.read_text()
    allowed = (ROOT / ".dockerignore").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"\n!{source.split('/')[0]}" in allowed
    assert re.findall(r"^USER (.+)$", text, re.M) == ["10001"]
    assert {line.split()[1] for line in text.splitlines() if line.startswith("FROM")} == {
        "python:3.11.13-slim-bookworm"
    }


def test_the_jobs_environment_is_the_same_in_both_images():
    files = [file for file in FILES if file.suffix != ".service"]
    stages = [re.search(r"^FROM \S+ AS jobs\n.*?(?=\n\n)", file.read_text(), re.M | re.S) for file in files]
    assert len(stages) == 2
    assert stages[0][0] == stages[1][0]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_only_images_with_jobs_install_the_library(file):
    text = file.read_text()
    is_service = file.suffix == ".service"
    assert ("COPY blockfactor " in text) is not is_service
    assert ("--editable . --editable ./blockfactor" in text) is not is_service


def test_server_requirements_have_the_versions_of_airflow():
    pinned = [line for line in (DOCKER / "requirements-server.txt").read_text().splitlines() if "==" in line]
    assert set(pinned) <= set((ROOT / "requirements" / "airflow.txt").read_text().splitlines())


def test_the_service_image_has_no_heavy_library_and_the_versions_of_the_jobs():
    pinned = set((ROOT / "requirements" / "service.txt").read_text().split())
    assert pinned <= set((ROOT / "requirements" / "jobs.txt").read_text().split())
    names = {line.partition("==")[0] for line in pinned}
    assert names & {"pyspark", "torch", "mlflow", "pandas", "onnx", "scikit-learn", "great-expectations"} == set()
    assert "openjdk" not in (DOCKER / "Dockerfile.service").read_text()


def test_optional_stores_start_only_with_their_profile():
    services = COMPOSE["services"]
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "redis": ["redis"],
        "cassandra": ["cassandra"],
    }
    assert all("ports" not in services[name] for name in ("redis", "cassandra"))
    for name in ("service", "airflow-scheduler", "redis", "cassandra"):
        assert "stores" in services[name]["networks"]


def test_environment_variables_are_existing_settings():
    from jobs.settings.settings import Settings

    environment = COMPOSE["x-airflow"]["environment"]
    for name in (n for n in environment if n.startswith("OVERTURE__")):
        section, field = name.lower().split("__")[1:]
        assert field in Settings.model_fields[section].annotation.model_fields


def test_the_service_cannot_write_and_sees_neither_the_lake_nor_the_private_key():
    service, jobs = COMPOSE["services"]["service"], COMPOSE["x-airflow"]
    assert service["read_only"] is True
    mounted = {volume.split(":")[0]: volume.split(":")[1:] for volume in service["volumes"]}
    assert set(mounted) == {"published", "public-keys", "stores"}
    assert all(options[1:] == ["ro"] for options in mounted.values())
    environment = service["environment"]
    writable = {place.split(":")[0] for place in service["tmpfs"]}
    assert writable == {"/tmp", environment["OVERTURE__SERVICE__RELEASE_CACHE"]}
    assert environment["OVERTURE__SERVICE__RELEASE_KEY"] == mounted["public-keys"][0]
    assert environment["OVERTURE__SERVICE__RELEASE_SOURCE"] == jobs["environment"]["OVERTURE__RELEASE__DESTINATION"]
    key = Path(jobs["environment"]["OVERTURE__RELEASE__SIGNING_KEY"])
    assert f"keys:{key.parent}" in jobs["volumes"]
    assert "public-keys" not in {volume.split(":")[0] for volume in jobs["volumes"]}
