"""Hands the champion's vectors to the store that the service reads.

A store is a small interface, `VectorStore`. The embedded one needs no copy: the service memory-maps the bundle, so
publishing means to open it as the service does, answer for one listener, and note it in releases/published.json.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jobs.context import Context
from jobs.errors import CheckFailed
from jobs.release import files, manifest, pointer
from jobs.tracking import task
from models.input_vector import FirstDays
from serving.release import open_release

NAME = "published.json"


class VectorStore(Protocol):
    """Where a release's vectors can be read from."""

    name: str

    def publish(self, folder: Path) -> dict[str, Any]:
        """Make a release readable; returns what was done. Safe to repeat; readers see the old or the new, never a mix.

        Raises:
            CheckFailed: the release is damaged or does not answer.
        """


class MemoryMapped:
    """The bundle itself, read through the operating system's page cache."""

    name = "memory-mapped"

    def publish(self, folder: Path) -> dict[str, Any]:
        """Verify every byte, open every network, answer for a listener of whom nothing is known."""
        release = open_release(folder)
        nobody = FirstDays.one(None, None, {})
        answers: dict[str, list[int]] = {}
        answering_space, answering_method = release.answers
        for name, space in release.spaces.items():
            vector_BD = space.predict(release.inputs(name, nobody))
            if vector_BD.shape != (1, space.layout["d"]) or not np.isfinite(vector_BD).all():
                raise CheckFailed(f"release {folder.name[:12]}: {name}/network.onnx gives no vector of width d")
            method = space.method(answering_method if name == answering_space else "semi_pers")
            first = method.recommend(release.inputs(name, nobody), 3, nobody)[0]
            answers[name] = [int(track) for track in release.track_ids[first]]
        entries = manifest.read(folder)["files"].values()
        return {"files": len(entries), "bytes": sum(entry["bytes"] for entry in entries), "first_tracks": answers}


def run(context: Context, store: VectorStore | None = None) -> dict[str, object]:
    """Publish the champion.

    Raises:
        CheckFailed: there is no champion, or it cannot be opened.
    """
    chosen = store or MemoryMapped()
    with task(context, "publish") as tracked:
        now = pointer.read(context.home)
        if now is None:
            raise CheckFailed("publish: there is no champion yet; run `overture release promote` first")
        done = chosen.publish(pointer.releases(context.home) / now.release)
        record = {"store": chosen.name, **asdict(now), **done}
        file = pointer.releases(context.home) / NAME
        files.replace(file, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
        tracked.log_json(record, NAME)
        tracked.set_tags({"release": now.release, "store": chosen.name})
        return {**record, "path": str(file), **tracked.links}
