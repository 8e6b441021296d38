"""Jars from a Maven repository; Maven's own settings apply, a mirror among them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

from contracts.errors import OvertureError

DOWNLOAD_S = 900


def file_name(coordinates: str) -> str:
    """Return the name of the jar of `group:artifact:version[:classifier]`."""
    return "-".join(coordinates.split(":")[1:]) + ".jar"


def copy_jars(coordinates: list[str], folder: Path, *, transitive: bool) -> None:
    """Copy jars into a folder; Maven's own settings apply.

    Args:
        coordinates: `group:artifact:version[:classifier]` of each.
        folder: a new folder.
        transitive: also copy what they depend on, each jar into the subfolder that a repository has for it.

    Raises:
        OvertureError: Maven is not installed, or it could not download them.
    """
    if shutil.which("mvn") is None:
        raise OvertureError("Maven is needed to download jars and is not installed (Debian: apt install maven)")
    exclusions = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    dependencies = []
    for group, artifact, version, *classifier in (one.split(":") for one in coordinates):
        fields = {"groupId": group, "artifactId": artifact, "version": version}
        fields |= {"classifier": classifier[0]} if classifier else {}
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        dependencies.append(f"<dependency>{inner}{'' if transitive else exclusions}</dependency>")
    with tempfile.TemporaryDirectory() as project:
        (Path(project) / "pom.xml").write_text(
            "<project><modelVersion>4.0.0</modelVersion><groupId>overture</groupId><artifactId>jars</artifactId>"
            f"<version>1</version><dependencies>{''.join(dependencies)}</dependencies></project>"
        )
        # The lock is derived from the paths of a repository; a class path needs all jars in one folder.
        options = [f"-DoutputDirectory={folder}", f"-Dmdep.useRepositoryLayout={str(transitive).lower()}"]
        try:
            run = subprocess.run(
                ["mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies", *options],
                cwd=project,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_S,
            )
        except subprocess.TimeoutExpired:
            raise OvertureError(f"Maven did not download the jars within {DOWNLOAD_S} s") from None
    if run.returncode:
        errors = [line for line in run.stdout.splitlines() if line.startswith("[ERROR]")]
        raise OvertureError(f"Maven could not download the jars: {(errors or [run.stderr])[0].strip()[:500]}")
