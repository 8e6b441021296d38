"""Spark starts from, and writes to, folders whose names have spaces and accents."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
JOB = """
from jobs.platform import spark
from jobs.settings.platform import SparkSettings
from jobs.settings.settings import home
session = spark.session(SparkSettings(partitions=2, driver_memory="512m"), "test")
session.range(3).write.parquet(str(home() / "t"))
print(spark.CLASS_ARCHIVE, session.read.parquet(str(home() / "t")).count(), sep="|")
"""


@pytest.mark.spark
def test_a_session_in_folders_with_spaces_and_accents(tmp_path):
    """The path of the class archive is an option of Java, and a POSIX locale hides accents from Java."""
    installed = Path(sys.prefix)
    if not (installed / "pyvenv.cfg").is_file():
        pytest.skip("Python runs outside a virtual environment, which this test copies")
    environment = tmp_path / "my \u00e9 checkout" / ".venv"
    (environment / "bin").mkdir(parents=True)
    shutil.copy(installed / "pyvenv.cfg", environment)
    (environment / "lib").symlink_to(installed / "lib")
    (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    home = tmp_path / "T\u00e9l\u00e9chargements a#b a%20b"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OVERTURE_HOME": str(home), "LC_ALL": "C"}
    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_HOME"):
        variables.pop(name, None)
    command = [environment / "bin" / "python", "-X", "utf8", "-c", JOB]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == f"{environment}/spark.jsa|3"
    assert (home / "t").is_dir()
