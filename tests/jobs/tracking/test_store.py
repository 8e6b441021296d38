"""Tests of jobs/tracking/store.py: environment, addresses, reachability."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from contracts.errors import BadArgument, OvertureError
from jobs.tracking import store
from jobs.tracking.tracker import Tracker
from tests.helpers import small_week


@pytest.fixture
def context(home, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return small_week.ready(home, taste=None)


def run_python(code: str) -> None:
    """Run code in a new Python process; the assertions in it must hold."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_importing_the_tracker_neither_imports_mlflow_nor_changes_the_environment():
    run_python(
        "import os, sys; before = dict(os.environ); import jobs.tracking.tracker, jobs.release.registry;"
        "assert dict(os.environ) == before; assert 'mlflow' not in sys.modules"
    )


def test_environment_is_set_before_mlflow_is_imported():
    run_python(
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mlflow':\n"
        "            assert os.environ['MLFLOW_ALLOW_PICKLE_DESERIALIZATION'] == 'false'\n"
        "            assert os.environ['MLFLOW_DISABLE_TELEMETRY'] == 'true'\n"
        "            assert os.environ['MLFLOW_LOGGING_LEVEL'] == 'WARNING'\n"
        "            sys.exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from jobs.tracking import store\n"
        "store.import_mlflow()\n"
        "sys.exit('mlflow was not imported')\n"
    )


def test_environment_keeps_values_of_the_caller_except_required_ones(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    store.configure_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def with_uri(context, uri):
    """A copy of the context whose setting mlflow.tracking_uri is `uri`."""
    return type(context)(
        context.settings.model_copy(
            update={"mlflow": context.settings.mlflow.model_copy(update={"tracking_uri": uri})}
        ),
        context.week,
        context.home,
    )


@pytest.mark.parametrize("kind", ["folder", "file for a folder", "garbage", "closed port", "closed database"])
def test_unavailable_store_raises_with_its_address(context, tmp_path, kind):
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    uri = {
        "folder": f"sqlite:///{tmp_path}/folder.db",
        "file for a folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "garbage": f"sqlite:///{tmp_path}/garbage.db",
        "closed port": "http://127.0.0.1:9",
        "closed database": "postgresql://me:secret@127.0.0.1:9/mlflow",
    }[kind]
    with pytest.raises(OvertureError) as raised:
        Tracker.start_week(with_uri(context, uri))
    assert raised.value.exit_code == 1
    assert uri.replace("secret", "***") in str(raised.value)
    assert "secret" not in str(raised.value)


def test_unknown_kind_of_address_raises(context):
    with pytest.raises(BadArgument, match=r"mlflow\.tracking_uri"):
        Tracker.start_week(with_uri(context, "mlruns"))


def test_settings_take_precedence_over_the_environment(context, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert store.tracking_uri(context) == "http://elsewhere"
    assert store.tracking_uri(with_uri(context, "http://chosen")) == "http://chosen"
    monkeypatch.setenv("OVERTURE_MLFLOW_UI", "http://ui/")
    assert store.run_url("3", "abc") == "http://ui/#/experiments/3/runs/abc"
