"""A Cassandra server on this machine, without a container: its jars, its configuration and its command line.

Jars    requirements/cassandra.txt lists them, one `group:artifact:version[:classifier] sha256` a line. Maven downloads
        them once (66 MB) into .venv/cassandra/<hash of the list>; every file must have the listed SHA-256.
        `python -m jobs.local.cassandra VERSION` writes the list of another version.
Server  one node, which listens on 127.0.0.1 alone, without a login and without JMX. Its data centre is `datacenter1`.
Memory  at most HEAP_MB of heap, as much again of buffers outside it, and the JVM itself: 1 GB after the start, at most
        1.5 GB

Differs  Cassandra's own scripts read cassandra-env.sh and jvm*-server.options; here the options are in `command`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contracts.errors import CheckFailed, OvertureError
from contracts.file_lock import file_lock
from jobs.local.maven import DOWNLOAD_S, copy_jars, file_name

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "requirements" / "cassandra.txt"
CACHE = REPOSITORY / ".venv" / "cassandra"
DATACENTER = "datacenter1"  # the only one that SimpleSnitch knows
JAVA_VERSIONS = (11, 17)  # those that Cassandra 5.0 supports
HEAP_MB = 512
# Packages of Java that Cassandra uses by reflection.
OPENED = {
    "java.base": "java.io java.lang java.lang.module java.lang.ref java.lang.reflect java.net java.nio java.util "
    "java.util.concurrent java.util.concurrent.atomic jdk.internal.loader jdk.internal.math jdk.internal.misc "
    "jdk.internal.module jdk.internal.ref jdk.internal.reflect jdk.internal.util.jar sun.nio.ch",
    "java.management": "com.sun.jmx.remote.security",
    "java.rmi": "sun.rmi.registry sun.rmi.server sun.rmi.transport sun.rmi.transport.tcp",
    "java.sql": "java.sql",
    "jdk.management": "com.sun.management.internal",
    "jdk.naming.dns": "com.sun.jndi.dns",
    "jdk.unsupported": "sun.misc",
}
LOGBACK = """<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"""


def read_lock() -> dict[str, str]:
    """Return coordinates -> SHA-256 of the jars."""
    lines = (line.split("#")[0].split() for line in LOCK.read_text().splitlines())
    return {words[0]: words[1] for words in lines if words}


def jars() -> Path:
    """Return the folder that contains the server's jars; they are downloaded if they are missing.

    Raises:
        OvertureError: Maven is not installed, or it could not download them.
        CheckFailed: a downloaded file is not the listed one.
    """
    folder = CACHE / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    with file_lock(CACHE / "download.lock", wait_s=DOWNLOAD_S):
        if not folder.exists():
            wanted = read_lock()
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                copy_jars(list(wanted), Path(temporary) / "lib", transitive=False)
                for coordinates, sha256 in wanted.items():
                    check_jar(Path(temporary) / "lib" / file_name(coordinates), coordinates, sha256)
                (Path(temporary) / "lib").rename(folder)
    return folder


def check_jar(file: Path, coordinates: str, sha256: str) -> None:
    """Raise CheckFailed unless the file has this SHA-256."""
    actual = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
    if actual != sha256:
        raise CheckFailed(f"{LOCK.name}: {coordinates} has SHA-256 {sha256}, downloaded was {actual}")


def java() -> str:
    """Return the command of a Java that runs Cassandra.

    Raises:
        OvertureError: Java is not installed, or has another version.
    """
    command = f"{os.environ['JAVA_HOME']}/bin/java" if os.environ.get("JAVA_HOME") else "java"
    try:
        printed = subprocess.run([command, "-version"], capture_output=True, text=True).stderr
    except OSError as error:
        raise OvertureError(f"Cassandra needs Java {JAVA_VERSIONS[-1]}: {error}") from None
    match = re.search(r'version "(\d+)', printed)
    version = int(match[1]) if match else 0
    if version not in JAVA_VERSIONS:
        raise OvertureError(f"Cassandra needs Java {' or '.join(map(str, JAVA_VERSIONS))}; {command} is {version}")
    return command


def configure(folder: Path, port: int, storage_port: int) -> None:
    """Write the configuration of one node whose data are in `folder`.

    Args:
        folder: all files of the node; data that are already there are used.
        port: port of CQL, for clients.
        storage_port: port for other nodes; it is opened although there are none.
    """
    settings = {
        "cluster_name": "overture",
        "num_tokens": 1,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        "auto_bootstrap": False,
        "auto_snapshot": False,  # what is dropped can be published again
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": f"127.0.0.1:{storage_port}"}],
            }
        ],
        "listen_address": "127.0.0.1",
        "storage_port": storage_port,
        "rpc_address": "127.0.0.1",
        "start_native_transport": True,
        "native_transport_port": port,
        "commitlog_sync": "periodic",
        "commitlog_sync_period": "10000ms",
        "commitlog_total_space": "512MiB",
        "file_cache_size": "64MiB",
        "data_file_directories": [str(folder / "data")],
        **{f"{name}_directory": str(folder / name) for name in ("commitlog", "saved_caches", "hints", "cdc_raw")},
    }
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    (folder / "cassandra.yaml").write_text(json.dumps(settings, indent=2) + "\n")  # JSON is YAML
    (folder / "logback.xml").write_text(LOGBACK)


def command(folder: Path) -> list[str]:
    """Return the command that runs the node in the foreground; `configure` has written its configuration.

    Raises:
        OvertureError: Java or the jars are missing.
    """
    properties = {
        "cassandra.config": (folder / "cassandra.yaml").absolute().as_uri(),
        "cassandra.storagedir": folder,
        "logback.configurationFile": folder / "logback.xml",
        "cassandra-foreground": "yes",
        "cassandra.ring_delay_ms": 1,  # there are no other nodes to wait for
        "cassandra.skip_wait_for_gossip_to_settle": 0,
        "jdk.attach.allowAttachSelf": "true",
        "java.io.tmpdir": folder / "tmp",  # native libraries are unpacked here
    }
    packages = [f"{module}/{package}" for module, names in OPENED.items() for package in names.split()]
    return [
        java(),
        f"-Xms{HEAP_MB}m",
        f"-Xmx{HEAP_MB}m",
        f"-XX:MaxDirectMemorySize={HEAP_MB}m",
        "-XX:+ExitOnOutOfMemoryError",
        *(f"-D{name}={value}" for name, value in properties.items()),
        *(f"--add-{how}={package}=ALL-UNNAMED" for package in packages for how in ("exports", "opens")),
        "-cp",
        f"{jars()}/*",
        "org.apache.cassandra.service.CassandraDaemon",
    ]


def write_lock(version: str) -> None:
    """Write the list of the jars of a version of Cassandra."""
    with tempfile.TemporaryDirectory() as temporary:
        copy_jars([f"org.apache.cassandra:cassandra-all:{version}"], Path(temporary), transitive=True)
        lines = []
        for file in sorted(Path(temporary).rglob("*.jar")):
            *group, artifact, number, name = file.relative_to(temporary).parts
            classifier = name.removeprefix(f"{artifact}-{number}").removesuffix(".jar").removeprefix("-")
            coordinates = ":".join([".".join(group), artifact, number, *([classifier] if classifier else [])])
            lines.append(f"{coordinates} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    head = f"# Cassandra {version} and what it depends on. Written by `python -m jobs.local.cassandra {version}`.\n"
    LOCK.write_text(head + "\n".join(sorted(lines)) + "\n")


if __name__ == "__main__":
    try:
        if len(sys.argv) == 2:
            write_lock(sys.argv[1])
        else:
            jars()
    except OvertureError as error:
        sys.exit(f"set-up: {error}")
