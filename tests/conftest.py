"""Fixtures of the whole suite: one Spark session, a context with the tiny settings, the command, public data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("OVERTURE_CONFIG", str(ROOT / "configs" / "tiny.yaml"))
# Networks of tests are small. With several threads, each step waits for the slowest, which on a busy machine takes four
# times as long. Commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


SERVER_TESTS = (
    "serving",
    "end_to_end",
    "jobs/tracking",
    "jobs/release",
    "jobs/local",
    "jobs/cli",
    "jobs/monitor",
    "jobs/paper/test_run.py",
    "test_load.py",
)
"""Folders and files whose tests start servers, browsers or processes. `make test-fast` excludes them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the Spark session (`spark`) and tests in `SERVER_TESTS` (`server`)."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if "spark" in (*getattr(item, "fixturenames", ()), *(one for one in parameters if isinstance(one, str))):
            item.add_marker("spark")
        if item.path.relative_to(ROOT / "tests").as_posix().startswith(SERVER_TESTS):
            item.add_marker("server")


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The suite's only session: local[2], UTC, few partitions.

    Tables of tests have few rows: compiling each query to Java code takes longer than interpreting it. Weeks that tests
    run as commands have the compiled code (configs/tiny.yaml).
    """
    os.environ["OVERTURE_HOME"] = str(tmp_path_factory.mktemp("home"))
    from jobs.platform.spark import session
    from jobs.settings.platform import SparkSettings
    from jobs.settings.settings import load

    extra = load(ROOT / "configs" / "tiny.yaml").spark.extra | {
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    spark_session = session(SparkSettings(master="local[2]", partitions=2, driver_memory="2g", extra=extra), "tests")
    yield spark_session
    spark_session.stop()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A new home directory, set as OVERTURE_HOME."""
    monkeypatch.setenv("OVERTURE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def context(home):
    """A context over the tiny settings, week 2026-11-16, with an empty lake."""
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load

    return Context(load(ROOT / "configs" / "tiny.yaml"), Week.parse("2026-11-16"), home)


@pytest.fixture
def command(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """A function that runs an `overture` command and returns exit code, stdout and stderr."""
    from jobs.cli import main as cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["overture", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """A function that returns the folder of a public dataset, or skips the test if it is unavailable."""

    def find(name: str) -> Path:
        base = Path(os.environ.get("OVERTURE_DATA", ROOT.parent / "shared" / "data"))
        if not (base / name).is_dir():
            pytest.skip(f"public dataset {name} is unavailable; set OVERTURE_DATA to the folder that contains it")
        return base / name

    return find


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """The suite's Redis server; a test that uses it flushes it first."""
    from tests.helpers.store_servers import redis_server

    server = redis_server(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def cassandra(tmp_path_factory):
    """The suite's Cassandra server; None if CASSANDRA_CONTACT_POINTS names a cluster, which is used instead."""
    from tests.helpers.store_servers import Server

    if os.environ.get("CASSANDRA_CONTACT_POINTS"):
        yield None
        return
    server = Server("cassandra", tmp_path_factory.mktemp("cassandra"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory):
    """The suite's Redis Cluster, of one node; a test that uses it flushes it first."""
    from tests.helpers.store_servers import redis_cluster

    server = redis_cluster(tmp_path_factory.mktemp("redis_cluster"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "redis", "redis_cluster", "cassandra"])
def store_settings(request):
    """Settings of an empty store of each kind."""
    from serving.settings import StoreSettings
    from tests.helpers.store_servers import cassandra_settings, drop_keyspace

    if request.param == "memory":
        yield StoreSettings()
    elif request.param.startswith("redis"):
        import redis as client

        server, is_cluster = request.getfixturevalue(request.param), request.param == "redis_cluster"
        client.Redis.from_url(server.url).flushall()
        yield StoreSettings(kind="redis", redis_url=server.url, redis_cluster=is_cluster, timeout_s=5)
    else:
        settings = cassandra_settings(request.getfixturevalue("cassandra"))
        yield settings
        drop_keyspace(settings)


@pytest.fixture(scope="session")
def skip_week_home(spark, tmp_path_factory) -> Path:
    """A home with the champion of a small skip week; tests copy it before they change it."""
    from tests.helpers import skip_week

    return skip_week.build_week(tmp_path_factory.mktemp("skip_week")).home
