"""A release of the skip engine, opened: members as ONNX, what mixes them, and what was known when it was made.

Shapes   N plays, M members

    answers.json                       members in order, weights, bias, calibration, names of numbers and categories
    cleaning.json                      what is rare, how long a track may be (models/skip/data/cleaning.py)
    members/<name>/network.onnx  inputs.json  inputs/<array>.npy        models/skip/encoding/model_inputs.py
    explain/inputs.json  inputs/  weights.npy  centre.npy               a regression that tells reasons
    state/  history/  tracks/                                           serving/skip/state.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import contracts
from contracts.errors import CheckFailed
from models.skip.data.cleaning import Cleaning, apply
from models.skip.data.play_history import Log
from models.skip.data.plays import Plays
from models.skip.encoding.model_inputs import Feeds
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from serving.release import manifest
from serving.release.onnx_session import BATCH, session
from serving.release.pointer import Pointer
from serving.skip.state import State, opened

ANSWERS, CLEANING, MEMBERS, EXPLAIN = "answers.json", "cleaning.json", "members", "explain"
NETWORK, INPUTS, OUTPUT = "network.onnx", "inputs", "listen"
READS = ("plays", "skip_features", "skip_state")
ENGINE = "skip"


def read_json(file: Path) -> Any:
    """A JSON file of a release; CheckFailed where there is none."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{file.name}: cannot be read: {error}") from None


def read_feeds(folder: Path, name: str) -> Feeds:
    """How plays become what a member, or the explanation, reads."""
    arrays = {file.stem: np.asarray(opened(file)) for file in sorted((folder / INPUTS).glob("*.npy"))}
    try:
        return Feeds.restore(read_json(folder / f"{INPUTS}.json"), arrays, name)
    except (KeyError, ValueError) as error:
        raise CheckFailed(f"{name}: its inputs do not hold together: {error!r}") from None


class Member:
    """One model of the blend."""

    def __init__(self, folder: Path) -> None:
        """Open members/<name>."""
        self.name = folder.name
        self.feeds = read_feeds(folder, self.name)
        self.network = session(folder / NETWORK)

    def predict(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Chance of a listen of each play, (N,).

        Raises:
            CheckFailed: the network gives something else than chances.
        """
        out_N = np.empty(len(plays))
        for start in range(0, len(plays), BATCH):
            part = plays.rows(slice(start, start + BATCH))
            out_N[start : start + len(part)] = self.network.run([OUTPUT], self.feeds(part, log))[0]
        if not ((out_N >= 0) & (out_N <= 1)).all():
            raise CheckFailed(f"{self.name}: gives something else than chances")
        return out_N


class Explanation:
    """A regression's additions by column: what models/skip/ranking/reasons.py turns into words."""

    def __init__(self, folder: Path) -> None:
        """Open explain/."""
        self.feeds = read_feeds(folder, EXPLAIN)
        self.weights_G, self.centre_G = (np.asarray(opened(folder / f"{name}.npy")) for name in ("weights", "centre"))

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Log odds that each column adds to those of the mean training play, (N, G)."""
        assert self.feeds.dense is not None
        return np.asarray((self.feeds.dense.columns(plays) - self.centre_G) * self.weights_G, np.float64)

    def columns(self) -> tuple[str, ...]:
        """What each column tells about."""
        assert self.feeds.dense is not None
        return self.feeds.dense.column_names()

    def mean(self) -> float:
        """Share of the training plays that were listened to."""
        assert self.feeds.dense is not None
        return self.feeds.dense.numbers.mean


class SkipRelease:
    """An opened bundle that answers.

    Raises:
        CheckFailed: it is damaged, made under newer contracts, of another engine, or does not hold together.
    """

    problems: Mapping[str, str] = {}  # it answers whole, or is not opened

    def __init__(self, folder: Path, pointer: Pointer | None = None) -> None:
        """Read every byte against the manifest, then open."""
        manifest.verify(folder)
        self.folder, self.name, self.pointer = folder, folder.name, pointer
        self.provenance = read_json(folder / "provenance.json")
        made_under = read_json(folder / "contracts.json")
        for table in READS:
            if made_under.get(table, 0) > contracts.load(table).version:
                raise CheckFailed(
                    f"release {self.name[:12]}: contract {table} has version {made_under[table]}, this program knows "
                    f"{contracts.load(table).version}; bring the program up to date"
                )
        if not (folder / ANSWERS).is_file():
            raise CheckFailed(f"release {self.name[:12]}: holds no {ANSWERS}; it is no release of the skip engine")
        self.told = read_json(folder / ANSWERS)
        try:
            self._open()
        except (KeyError, TypeError) as error:
            raise CheckFailed(f"release {self.name[:12]}: {ANSWERS} is another program's: {error!r}") from None

    def _open(self) -> None:
        told, folder = self.told, self.folder
        self.week = str(self.provenance["week"])
        self.names, self.categories = tuple(told["numbers"]), tuple(told["categories"])
        self.gap_s, self.smoothing = int(told["session_gap_s"]), float(told["smoothing"])
        totals = told["totals"]
        self.everybody = (totals["n_listened"] + 1) / (totals["n_plays"] + 2)
        self.state_until, self.learned_until = int(told["state_until"]), int(told["learned_until"])
        self.cleaning = Cleaning.from_json(read_json(folder / CLEANING))
        self.members = [Member(folder / MEMBERS / one["name"]) for one in told["members"]]
        weights_M = np.asarray([one["weight"] for one in told["members"]])
        self.mix = Mix(told["method"], weights_M, float(told["bias"]))
        kept = told["calibration"]
        self.calibration = Calibration(kept["kind"], np.asarray(kept["x"], float), np.asarray(kept["y"], float))
        self.explanation = Explanation(folder / EXPLAIN) if (folder / EXPLAIN).is_dir() else None
        self.state = State(folder)

    @cached_property
    def looks_back(self) -> bool:
        """Does a member read earlier plays one by one?"""
        return any(member.feeds.kind == "signs" for member in self.members)

    def document(self, name: str) -> Any:
        """One of its JSON documents: evaluation, quality, contracts."""
        return read_json(self.folder / f"{name}.json")

    def cleaned(self, plays: Plays) -> Plays:
        """Plays as members want them; their numbers are changed in place."""
        return apply(plays, self.cleaning)

    def logits(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Log odds of every member about cleaned plays, (N, M)."""
        return np.stack([logit(member.predict(plays, log)) for member in self.members], axis=1)

    def predict(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Chance of a listen of cleaned plays, (N,); `log` is what is known of earlier plays."""
        return self.calibration(self.mix(self.logits(plays, log)))
