"""Processes of this machine (pid, parent, process group and start time) and its free ports."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from contracts.errors import OvertureError


class Process(NamedTuple):
    """One process. `born` is the system's start time; it distinguishes a process from a later one with the same pid."""

    parent: int
    group: int
    born: str


NO_PROCESS = Process(0, 0, "")


def processes() -> dict[int, Process]:
    """Return all processes by pid, without zombies."""
    by_pid: dict[int, Process] = {}
    if not Path("/proc/self/stat").exists():
        columns = ["ps", "-axo", "pid=,ppid=,pgid=,stat=,lstart="]
        listing = subprocess.run(columns, capture_output=True, text=True, check=True)
        for pid, parent, group, state, born in (line.split(None, 4) for line in listing.stdout.splitlines()):
            if not state.startswith("Z"):
                by_pid[int(pid)] = Process(int(parent), int(group), born)
        return by_pid
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if after_name[0] != "Z":
                by_pid[int(folder.name)] = Process(int(after_name[1]), int(after_name[2]), after_name[19])
    return by_pid


def start_time(pid: int) -> str:
    """Return the system's start time of a process, or an empty string if it has ended."""
    return processes().get(pid, NO_PROCESS).born


def descendants(roots: Iterable[int]) -> dict[int, Process]:
    """Return the given processes and all their descendants."""
    all_processes = processes()
    children: dict[int, list[int]] = {}
    for pid, process in all_processes.items():
        children.setdefault(process.parent, []).append(pid)
    members: dict[int, Process] = {}
    queue = [pid for pid in roots if pid in all_processes]
    while queue:
        pid = queue.pop()
        if pid not in members:
            members[pid] = all_processes[pid]
            queue += children.get(pid, [])
    return members


def free_port(wanted: int = 0) -> int:
    """Return the wanted port of 127.0.0.1, or any free one if it is in use or 0."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OvertureError("no free port on 127.0.0.1")
