"""Processes of this machine: which run, when each began, and who started whom."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """What we need to know of a process; `born`, the system's words, tells it from a later one with its pid."""

    parent: int
    group: int
    born: str


NOBODY = Process(0, 0, "")


def processes() -> dict[int, Process]:
    """Every process by pid; zombies left out."""
    found: dict[int, Process] = {}
    if not Path("/proc/self/stat").exists():
        columns = ["ps", "-axo", "pid=,ppid=,pgid=,stat=,lstart="]
        listing = subprocess.run(columns, capture_output=True, text=True, check=True)
        for pid, parent, group, state, born in (line.split(None, 4) for line in listing.stdout.splitlines()):
            if not state.startswith("Z"):
                found[int(pid)] = Process(int(parent), int(group), born)
        return found
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            if after_name[0] != "Z":
                found[int(folder.name)] = Process(int(after_name[1]), int(after_name[2]), after_name[19])
    return found


def birth(pid: int) -> str:
    """When a process began, in words of the system; empty when it is gone."""
    return processes().get(pid, NOBODY).born


def family(roots: Iterable[int]) -> dict[int, Process]:
    """The given processes and all that they started."""
    everyone = processes()
    children: dict[int, list[int]] = {}
    for pid, process in everyone.items():
        children.setdefault(process.parent, []).append(pid)
    found: dict[int, Process] = {}
    queue = [pid for pid in roots if pid in everyone]
    while queue:
        pid = queue.pop()
        if pid not in found:
            found[pid] = everyone[pid]
            queue += children.get(pid, [])
    return found
