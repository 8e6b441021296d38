"""The two distributions: which packages, extras and data files they contain, and their versions."""

import runpy
import sys
import tomllib
from pathlib import Path

import pytest

import blockfactor

ROOT = Path(__file__).parent.parent
LIBRARY = tomllib.loads((ROOT / "blockfactor" / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def product():
    """Return the arguments of the product's `setup` call."""
    import setuptools

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        arguments = {}
        patch.setattr(setuptools, "setup", arguments.update)
        runpy.run_path(str(ROOT / "setup.py"))
        return arguments


def test_the_product_contains_its_packages_but_not_the_library(product):
    assert {name.split(".")[0] for name in product["packages"]} == {"contracts", "models", "jobs", "serving"}
    for package in ("contracts", "models", "jobs", "serving"):
        expected = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / package).rglob("__init__.py")}
        assert expected <= set(product["packages"])
        assert "py.typed" in product["package_data"][package]
        assert (ROOT / package / "py.typed").is_file()


def test_extras_are_the_requirements_and_jobs_need_the_library(product):
    assert set(product["extras_require"]) == {"jobs", "service", "airflow", "dev"}
    assert f"blockfactor=={LIBRARY['version']}" in product["extras_require"]["jobs"]
    for name, extra in product["extras_require"].items():
        lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
        assert {line for line in lines if line and not line.startswith("#")} == set(extra) - {"blockfactor==0.1.0"}


def test_the_distributions_have_different_names_one_licence_and_a_readme(product):
    assert product["name"] != LIBRARY["name"]
    assert product["license"] == LIBRARY["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text() == (ROOT / "blockfactor" / "LICENSE").read_text()
    assert product["long_description"].startswith("# Overture")
    assert (ROOT / "blockfactor" / LIBRARY["readme"]).read_text().startswith("# blockfactor")
    assert (ROOT / "blockfactor" / "py.typed").is_file()


def test_the_version_of_the_library_equals_its_distribution():
    assert blockfactor.__version__ == LIBRARY["version"]


def test_library_requirements_equal_its_imports():
    from tests.test_rooms import FILES, libraries

    imported = set().union(*(libraries(file) for file in FILES if file.parent == ROOT / "blockfactor"))
    required = {requirement.partition(">")[0] for requirement in LIBRARY["dependencies"]}
    assert imported - set(sys.stdlib_module_names) - {"blockfactor"} == required
