"""Imports point one way, heavy third parties stay in their rooms, and the code under test is this checkout's."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("contracts", "blockfactor", "models", "jobs", "serving", "dags")
MAY_IMPORT = {
    "contracts": {"contracts"},
    "blockfactor": {"blockfactor"},
    "models": {"models", "contracts", "blockfactor"},
    "jobs": {"jobs", "models", "contracts", "serving", "blockfactor"},  # what opens a release is one code
    "serving": {"serving", "models", "contracts"},
    "dags": {"dags"},
}
ONLY_IN = {
    "pyspark": ("jobs/", "blockfactor/"),
    "airflow": ("dags/",),
    "mlflow": ("jobs/tracking/", "jobs/release/"),
    "great_expectations": ("jobs/quality/check.py",),
}
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_walk_finds_the_rooms():
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file):
    room = file.relative_to(ROOT).parts[0]
    siblings = {other.stem for other in (ROOT / "dags").glob("*.py")} if room == "dags" else set()
    assert (imported(file) & set(ROOMS)) - MAY_IMPORT[room] - siblings == set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_third_parties_stay_in_their_rooms(file):
    name = str(file.relative_to(ROOT))
    astray = {lib for lib, homes in ONLY_IN.items() if lib in imported(file) and not name.startswith(homes)}
    assert astray == set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_is_pickled(file):
    """Nothing that is kept, that is: a crew pickles calls to processes of its own run, which hold the same key."""
    source = file.read_text()
    crew = file == ROOT / "blockfactor" / "worker_pool.py"
    assert crew or not imported(file) & {"pickle", "cloudpickle", "joblib", "dill", "shelve"}
    assert "allow_pickle=True" not in source
    assert "torch.save(" not in source


@pytest.mark.parametrize("room", ["contracts", "blockfactor", "models", "jobs", "serving"])
def test_the_code_under_test_is_this_checkout(room):
    module = __import__(room)
    assert Path(module.__file__).resolve().parent == ROOT / room
