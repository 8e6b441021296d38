"""The import rules: directions between packages, order inside jobs and serving, no cycles, uses of heavy libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("contracts", "blockfactor", "models", "jobs", "serving", "dags")
MAY_IMPORT = {
    "contracts": {"contracts"},
    "blockfactor": {"blockfactor"},
    "models": {"models", "contracts", "blockfactor"},
    "jobs": {"jobs", "models", "contracts", "serving", "blockfactor"},  # jobs open releases with the service's code
    "serving": {"serving", "models", "contracts"},
    "dags": {"dags"},
}
# From low to high: a part may import only itself and the parts of the lines above it.
ORDER = {
    "jobs": (
        ("settings",),
        ("platform",),
        ("tracking",),
        ("quality",),
        ("ingest",),
        ("matrix",),
        ("factorize",),
        ("cold_start", "skip"),
        ("release",),
        ("monitor",),
        ("experiments",),
        ("paper",),
        ("local",),
        ("cli",),
    ),
    "serving": (
        ("body_models",),
        ("settings", "schema", "bodies"),
        ("release",),
        ("stores",),
        ("block",),
        ("http",),
        ("profile",),
        ("recommend",),
        ("experiment", "skip", "admin"),
        ("health",),
        ("app",),
        ("main",),
    ),
}
ONLY_IN = {
    "pyspark": ("jobs/", "blockfactor/"),
    "airflow": ("dags/",),
    "mlflow": ("jobs/tracking/", "jobs/release/"),
    "great_expectations": ("jobs/quality/check.py",),
}
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node below this one, without the bodies of `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from (other, *run_time_nodes(other))
        else:
            yield child
            yield from run_time_nodes(child)


def libraries(file: Path) -> set[str]:
    """Return the top-level names of everything that a file imports, including imports for type checking."""
    names = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@cache
def imported_modules(file: Path) -> frozenset[str]:
    """Return the project's modules that a file imports at run time, at its top or inside functions."""
    modules = set()
    for node in run_time_nodes(tree(file)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                modules.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            modules |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    return frozenset(modules & MODULES.keys())


def level_of(module: str) -> tuple[int, str] | None:
    """Return the level of a module's part in its package, and the part; None for a module outside the order."""
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    if package not in ORDER or not part:
        return None
    return next(((level, part) for level, parts in enumerate(ORDER[package]) if part in parts), None)


def imports_upward(file: Path) -> set[str]:
    """Return modules of the same package that a file imports although they are not below its part."""
    module = module_of(file)
    place = level_of(module)
    if place is None:
        return set()
    upward = set()
    for other in imported_modules(file):
        target = level_of(other)
        if target and other.partition(".")[0] == module.partition(".")[0]:
            is_allowed = target == place or target[0] < place[0]
            upward |= set() if is_allowed else {other}
    return upward


def cycles() -> list[set[str]]:
    """Return the groups of modules that import each other (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imported_modules(MODULES[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            group = set(stack[at:])
            del stack[at:]
            if len(group) > 1 or module in imported_modules(MODULES[module]):
                groups.append(group)

    for module in MODULES:
        if module not in index:
            visit(module)
    return groups


def test_every_package_has_files():
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_package_imports_only_allowed_packages(file):
    package = file.relative_to(ROOT).parts[0]
    siblings = {other.stem for other in (ROOT / "dags").glob("*.py")} if package == "dags" else set()
    assert (libraries(file) & set(PACKAGES)) - MAY_IMPORT[package] - siblings == set()


@pytest.mark.parametrize("package", ORDER)
def test_every_part_of_a_package_is_in_the_order(package):
    parts = {
        path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert parts - {"__init__"} == {part for parts in ORDER[package] for part in parts}


@pytest.mark.parametrize("file", [file for file in FILES if level_of(module_of(file))], ids=lambda f: module_of(f))
def test_imports_inside_a_package_point_downward(file):
    assert imports_upward(file) == set()


def test_there_are_no_import_cycles():
    assert cycles() == []


def test_the_service_does_not_import_the_library():
    """`blockfactor` needs numba and pyspark, which the service's image does not contain."""
    reached: set[str] = set()
    pending = [module for module in MODULES if module.partition(".")[0] == "serving"]
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            parents = {module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)}
            pending += (imported_modules(MODULES[module]) | parents) & MODULES.keys()
    assert {module for module in reached if module.partition(".")[0] == "blockfactor"} == set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_heavy_libraries_are_imported_only_where_allowed(file):
    name = str(file.relative_to(ROOT))
    misplaced = {
        library for library, homes in ONLY_IN.items() if library in libraries(file) and not name.startswith(homes)
    }
    assert misplaced == set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_is_stored_as_pickle(file):
    """The worker pool may pickle calls to its own processes, which share a key. It stores nothing."""
    source = file.read_text()
    is_worker_pool = file == ROOT / "blockfactor" / "worker_pool.py"
    assert is_worker_pool or not libraries(file) & {"pickle", "cloudpickle", "joblib", "dill", "shelve"}
    assert "allow_pickle=True" not in source
    assert "torch.save(" not in source


@pytest.mark.parametrize("package", ["contracts", "blockfactor", "models", "jobs", "serving"])
def test_the_code_under_test_is_this_checkout(package):
    module = __import__(package)
    assert Path(module.__file__).resolve().parent == ROOT / package
