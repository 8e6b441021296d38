"""An opened release of the skip engine: members as ONNX, the ensemble, and the state at the time of the release.

Shapes   N plays, M members

    answers.json                       members in order, weights, bias, calibration, names of numbers and categories
    cleaning.json                      rare categories, bounds of durations (models/skip/data/cleaning.py)
    members/<name>/network.onnx  inputs.json  inputs/<array>.npy        models/skip/encoding/model_inputs.py
    evaluated/<name>/                  the same, of the models of the time split: for the gate only, never served
    explain/inputs.json  inputs/  weights.npy  centre.npy               a regression that explains predictions
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
from models.skip.data.cleaning import Cleaning, clean_plays
from models.skip.data.play_history import Log
from models.skip.data.plays import Plays
from models.skip.encoding.model_inputs import FeatureInputs, ModelInputs, restore_model_inputs
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from serving.release import manifest
from serving.release.external_ids import ExternalIds
from serving.release.onnx_session import BATCH, session
from serving.release.pointer import Pointer
from serving.skip.state import State, load_array

ANSWERS, CLEANING, MEMBERS, EVALUATED, EXPLAIN = "answers.json", "cleaning.json", "members", "evaluated", "explain"
NETWORK, INPUTS, OUTPUT = "network.onnx", "inputs", "listen"
READS = ("plays", "skip_features", "skip_state")
ENGINE = "skip"


def read_json(file: Path) -> Any:
    """Return the content of a JSON file of a release; raise CheckFailed if it cannot be read."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{file.name}: cannot be read: {error}") from None


def read_model_inputs(folder: Path, name: str) -> ModelInputs:
    """Return the inputs of a member, or of the explanation."""
    arrays = {file.stem: np.asarray(load_array(file)) for file in sorted((folder / INPUTS).glob("*.npy"))}
    try:
        return restore_model_inputs(read_json(folder / f"{INPUTS}.json"), arrays, name)
    except (KeyError, ValueError) as error:
        raise CheckFailed(f"{name}: its inputs are inconsistent: {error!r}") from None


class Member:
    """One model of the ensemble."""

    def __init__(self, folder: Path) -> None:
        """Open members/<name>."""
        self.name = folder.name
        self.inputs = read_model_inputs(folder, self.name)
        self.network = session(folder / NETWORK)

    def predict(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Return the listening probability of each play, (N,).

        Raises:
            CheckFailed: the network returns something other than probabilities.
        """
        out_N = np.empty(len(plays))
        for start in range(0, len(plays), BATCH):
            part = plays.rows(slice(start, start + BATCH))
            out_N[start : start + len(part)] = self.network.run([OUTPUT], self.inputs.encode(part, log))[0]
        if not ((out_N >= 0) & (out_N <= 1)).all():
            raise CheckFailed(f"{self.name}: returns something other than probabilities")
        return out_N


class Explanation:
    """A linear model whose contributions by column become the reasons of models/skip/ranking/reasons.py."""

    def __init__(self, folder: Path) -> None:
        """Open explain/."""
        inputs = read_model_inputs(folder, EXPLAIN)
        if not isinstance(inputs, FeatureInputs):
            raise CheckFailed(f"{EXPLAIN}: needs inputs of kind {FeatureInputs.kind!r}, has {inputs.kind!r}")
        self.dense = inputs.dense
        self.weights_G, self.centre_G = (
            np.asarray(load_array(folder / f"{name}.npy")) for name in ("weights", "centre")
        )

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Return the log odds that each column adds to those of the mean training play, (N, G)."""
        return np.asarray((self.dense.columns(plays) - self.centre_G) * self.weights_G, np.float64)

    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.dense.column_names()

    def mean(self) -> float:
        """Share of the training plays that were listened to."""
        return self.dense.numbers.mean


class Ensemble:
    """Members, their weights and their calibration.

    Attributes:
        members: models in the order of the weights.
        mix: weights of their log odds.
        calibration: calibration of the mix.
        names: numbers that the members read, columns of skip_features.
        learned_until: seconds since 1970; no part was trained or selected on a play of this second or later.
        cleaning: the cleaning that the members expect.
    """

    members: list[Member]
    mix: Mix
    calibration: Calibration
    names: tuple[str, ...]
    learned_until: int
    cleaning: Cleaning

    def open_members(self, folder: Path, description: Mapping[str, Any], cleaning: Cleaning) -> None:
        """Open the members.

        Args:
            folder: the folder with a folder per member.
            description: members, method, bias, calibration, numbers and learned_until, as in answers.json.
            cleaning: the cleaning of the release.

        Raises:
            CheckFailed: a member is inconsistent.
        """
        self.names, self.learned_until = tuple(description["numbers"]), int(description["learned_until"])
        self.members = [Member(folder / one["name"]) for one in description["members"]]
        weights_M = np.asarray([one["weight"] for one in description["members"]])
        self.mix = Mix(description["method"], weights_M, float(description["bias"]))
        stored = description["calibration"]
        arrays = {name: np.asarray(stored[name], float) for name in ("x", "y")}
        self.calibration = Calibration.from_arrays(stored["kind"], arrays)
        self.cleaning = cleaning

    @cached_property
    def reads_history(self) -> bool:
        """Whether a member reads earlier plays one by one."""
        return any(member.inputs.history_length > 0 for member in self.members)

    def cleaned(self, plays: Plays) -> Plays:
        """Return plays as the members expect them; numbers are changed in place."""
        return clean_plays(plays, self.cleaning)

    def logits(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Return the log odds of every member for cleaned plays, (N, M)."""
        return np.stack([logit(member.predict(plays, log)) for member in self.members], axis=1)

    def predict(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Return the listening probabilities of cleaned plays, (N,).

        Args:
            plays: cleaned plays (N,).
            log: earlier plays of the users.
        """
        return self.calibration(self.mix(self.logits(plays, log)))


class SkipRelease(Ensemble):
    """An opened release of the skip engine, and the ensemble that it serves.

    Raises:
        CheckFailed: it is damaged, inconsistent, made under newer contracts, or of another engine.
    """

    problems: Mapping[str, str] = {}  # a release is complete or is not opened

    def __init__(self, folder: Path, pointer: Pointer | None = None, check: bool = True) -> None:
        """Open the release; `check` is whether to verify every file against the manifest first."""
        if check:
            manifest.verify(folder)
        self.folder, self.name, self.pointer = folder, folder.name, pointer
        self.provenance = read_json(folder / "provenance.json")
        made_under = read_json(folder / "contracts.json")
        for table in READS:
            if made_under.get(table, 0) > contracts.load(table).version:
                raise CheckFailed(
                    f"release {self.name[:12]}: contract {table} has version {made_under[table]}, this program "
                    f"supports {contracts.load(table).version}; update the program"
                )
        if not (folder / ANSWERS).is_file():
            raise CheckFailed(
                f"release {self.name[:12]}: contains no {ANSWERS}; it is not a release of the skip engine"
            )
        self.description = read_json(folder / ANSWERS)
        try:
            self._open()
        except (KeyError, TypeError) as error:
            raise CheckFailed(f"release {self.name[:12]}: {ANSWERS} has an unknown format: {error!r}") from None

    def _open(self) -> None:
        description, folder = self.description, self.folder
        self.week = str(self.provenance["week"])
        self.ids = ExternalIds(self.provenance.get("ids", {}), {})  # responses repeat ids of the request
        self.categories = tuple(description["categories"])
        self.gap_s, self.smoothing = int(description["session_gap_s"]), float(description["smoothing"])
        totals = description["totals"]
        self.mean_probability = (totals["n_listened"] + 1) / (totals["n_plays"] + 2)
        self.state_until = int(description["state_until"])
        self.open_members(folder / MEMBERS, description, Cleaning.from_json(read_json(folder / CLEANING)))
        self.explanation = Explanation(folder / EXPLAIN) if (folder / EXPLAIN).is_dir() else None
        self.state = State(folder)

    @cached_property
    def evaluated(self) -> Ensemble:
        """The ensemble of the time split, which the gate of a week evaluates.

        The served members are trained on all labelled plays, so that no play is left to evaluate them on. A release of
        an earlier version serves the models of the time split themselves.
        """
        description = self.description.get("evaluated")
        if description is None:
            return self
        ensemble = Ensemble()
        ensemble.open_members(self.folder / EVALUATED, description, self.cleaning)
        return ensemble

    def document(self, name: str) -> Any:
        """Return one of the JSON documents: evaluation, quality, contracts."""
        return read_json(self.folder / f"{name}.json")
