"""A release, opened as the service opens it: memory-mapped arrays, onnxruntime, the input function of training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contracts
from contracts.errors import CheckFailed
from models.cold_start.input_vector import (
    AGE_CLASSES,
    BLOCKS,
    KINDS,
    SCALARS,
    Demographics,
    Entities,
    FirstDays,
    Layout,
    input_vectors,
)
from models.cold_start.list_rules import ListRules, TrackFacts
from models.cold_start.methods import FullPers, Method, Popularity, Predict, SemiPers
from models.cold_start.methods.blend import Blend
from models.cold_start.methods.country_age import CountryAge, WithCountryAge
from models.cold_start.methods.vocabulary import Catalogue
from models.cold_start.track_index import TrackIndex
from serving.release import blend, external_ids, manifest, ranker, track_facts
from serving.release.onnx_session import run, session

if TYPE_CHECKING:
    import onnxruntime

NAMES = ("title", "artist_name", "genre")
TRACK_INDEX = "track_index"  # folder of a space
WITH_COUNTRY_AGE = ("semi_pers", "full_pers")  # methods whose network is worse than country and age alone
# The contracts of the data that a bundle is built from: its arrays have the meaning that these declare.
READS = ("catalog", "demographic_vectors", "entity_vectors", "first_day", "segments", "track_vectors", "tracks")


@dataclass(frozen=True)
class SpaceBundle:
    """One space of a release. Arrays are memory-mapped."""

    folder: Path
    layout: dict[str, Any]

    def array(self, name: str) -> np.ndarray:
        """Return an array of the space, memory-mapped, such as track_vectors (N, d)."""
        values: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return values

    @cached_property
    def network(self) -> onnxruntime.InferenceSession:
        """The network (B, F) -> (B, d)."""
        return session(self.folder / "network.onnx")

    @cached_property
    def entities(self) -> Entities:
        """Vectors of songs, artists, albums and playlists by id."""
        ids, vectors = ({kind: self.array(f"entities/{kind}.{part}") for kind in KINDS} for part in ("ids", "vectors"))
        return Entities(ids, vectors)

    @cached_property
    def country_ages(self) -> dict[str, np.ndarray]:
        """Mean vector (d,) of the warm users of a country and an age class, by "FR/18-24"."""
        names = json.loads((self.folder / "demographics" / "names.json").read_text())["country_age"]["names"]
        return dict(zip(names, self.array("demographics/country_age"), strict=True))

    @cached_property
    def segments(self) -> list[dict[str, Any]]:
        """The displayed description of each segment: {segment_id, size, card}."""
        segments: list[dict[str, Any]] = json.loads((self.folder / "segments.json").read_text())
        return segments

    @cached_property
    def demographics(self) -> Demographics:
        """Mean vectors by country and age class."""
        names = json.loads((self.folder / "demographics" / "names.json").read_text())
        countries = self.array("demographics/country")
        by_name = {name: countries[row] for row, name in enumerate(names["country"]["names"])}
        return Demographics(by_name, self.array("demographics/age_class"))

    @cached_property
    def country_age(self) -> CountryAge | None:
        """Rankings by country and age class, for listeners without a known interaction; None in an older bundle.

        Raises:
            CheckFailed: they are of another catalogue.
        """
        folder = self.folder / "demographics"
        if not (folder / "rankings.json").exists():
            return None
        groups = [(kind, name) for kind, name in json.loads((folder / "rankings.json").read_text())]
        rankings = dict(zip(groups, self.array("demographics/rankings"), strict=True))
        try:
            return CountryAge(len(self.array("track_vectors")), rankings)
        except ValueError as error:
            raise CheckFailed(f"{self.folder.name}: {error}") from error

    @cached_property
    def track_index(self) -> TrackIndex | None:
        """The approximate index of a large catalogue; None: lists are exact.

        Raises:
            CheckFailed: it is damaged.
        """
        folder = self.folder / TRACK_INDEX
        return TrackIndex(folder, self.array("track_vectors")) if folder.is_dir() else None

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        """Return the vectors (B, d) of listeners."""
        return run(self.network, x_BF)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Ids of the release's tracks."""
        return Catalogue(*(_ids(self.folder.parent, column) for column in ("track_id", "artist_id", "album_id")))

    @cached_property
    def blend(self) -> Blend:
        """The blend, opened once; ranked_candidates reads its scores."""
        return blend.read(self.folder / "blend", self.catalogue)

    def method(self, name: str, predict: Predict | None = None) -> Method:
        """Return a recommendation method; its lists are this release's track_idx.

        Args:
            name: popularity, full_pers, semi_pers, blend or ranked_candidates.
            predict: (B, F) -> (B, d), used instead of the network; the identity makes a method over listeners' vectors,
                which recommends by the vector to every listener. Without it, a listener without a known interaction
                gets the list of `country_age`.

        Raises:
            CheckFailed: the release does not contain the method, or it is damaged.
        """
        method = self._method(name, predict or self.predict)
        if predict is not None or self.country_age is None or name not in WITH_COUNTRY_AGE:
            return method
        return WithCountryAge(method, self.country_age)

    def _method(self, name: str, predict: Predict) -> Method:
        if name == "popularity":
            return Popularity(len(self.array("track_vectors")))
        if name == "full_pers":
            tracks_ND, similarity = self.array("track_vectors"), self.layout["similarity"]
            return FullPers(predict, tracks_ND, similarity, self.track_index)
        if name == "semi_pers":
            return SemiPers(predict, self.array("centroids"), self.array("rankings"))
        if name == "blend" and (self.folder / "blend").is_dir():
            return self.blend
        if name == "ranked_candidates" and (self.folder / "ranker").is_dir():
            return ranker.read(self.folder / "ranker", self.blend, self.array("track_vectors"))
        raise CheckFailed(f"release {self.folder.parent.name[:12]}: contains no {name} in {self.folder.name}")


@dataclass(frozen=True)
class Release:
    """An opened bundle."""

    folder: Path
    provenance: dict[str, Any]
    spaces: dict[str, SpaceBundle]

    @cached_property
    def track_ids(self) -> np.ndarray:
        """Stable track ids (N,) by track_idx."""
        return _ids(self.folder, "track_id")

    @cached_property
    def names(self) -> dict[str, list[str | None]]:
        """Names of the tracks by track_idx: title, artist_name, genre; all unknown in an older bundle."""
        try:
            names: dict[str, list[str | None]] = json.loads((self.folder / "tracks" / "names.json").read_text())
        except FileNotFoundError:
            names = {}
        return {column: names.get(column) or [None] * len(self.track_ids) for column in NAMES}

    @cached_property
    def is_new_release(self) -> np.ndarray:
        """Whether each track is a new release, whose vector is an estimate, (N,) bool."""
        try:
            return _ids(self.folder, "new_release")
        except FileNotFoundError:  # there are none
            return np.zeros(len(self.track_ids), bool)

    @cached_property
    def track_facts(self) -> TrackFacts:
        """What the rules of lists use of the tracks; of an older bundle only artists and albums."""
        return track_facts.read(self.folder, _ids(self.folder, "artist_id"), _ids(self.folder, "album_id"))

    @property
    def rules(self) -> ListRules:
        """The rules of lists that the release was evaluated with; of an older bundle, the defaults."""
        settings = self.provenance["settings"]
        if "rules" in settings:
            return ListRules(**settings["rules"])
        leave_out = settings.get("evaluation", {}).get("leave_out_first_day", False)
        return ListRules(heard="leave_out" if leave_out else "keep")

    @cached_property
    def external_ids(self) -> external_ids.ExternalIds:
        """External ids of users and entities."""
        return external_ids.read(self.folder, self.provenance.get("ids", {}))

    @cached_property
    def training_inputs(self) -> dict[str, Any] | None:
        """Distribution of the first days of training (serving/release/input_drift.py); None in an older bundle."""
        try:
            reference: dict[str, Any] = json.loads((self.folder / "inputs.json").read_text())
        except FileNotFoundError:
            return None
        return reference

    @property
    def space_and_method(self) -> tuple[str, str]:
        """Space and method that the release was promoted to recommend with."""
        gate = self.provenance["settings"]["gate"]
        return gate["space"], gate["method"]

    @property
    def week(self) -> str:
        """The week of the release."""
        return str(self.provenance["week"])

    def document(self, name: str) -> Any:
        """Return one of the JSON documents: evaluation, quality, contracts."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def inputs(self, space: str, days: FirstDays) -> np.ndarray:
        """Return the input vectors (B, F) of listeners, from this release's own entities."""
        return input_vectors(days, self.spaces[space].entities, self.spaces[space].demographics)


def _ids(release: Path, column: str) -> np.ndarray:
    ids_N: np.ndarray = np.load(release / "tracks" / f"{column}.npy", mmap_mode="r", allow_pickle=False)
    return ids_N


def bundle_layout(d: int) -> dict[str, Any]:
    """Return the position of each value in an input vector as JSON, for readers in any language."""
    layout = Layout(d)
    return {
        "d": d,
        "size": layout.size,
        "blocks": {name: [layout.block(name).start, layout.block(name).stop] for name in BLOCKS},
        "scalars": {name: layout.scalar(name) for name in SCALARS},
        "age_classes": list(AGE_CLASSES),
    }


def open_release(folder: Path, check: bool = True) -> Release:
    """Open a bundle.

    Args:
        folder: folder of the release.
        check: whether to verify every file against the manifest first.

    Raises:
        CheckFailed: it is damaged, made under newer contracts than this program supports, or its input layout is not
            the one that this program computes.
    """
    if check:
        manifest.verify(folder)
    else:
        manifest.read(folder)
    provenance = json.loads((folder / "provenance.json").read_text())
    made_under = json.loads((folder / "contracts.json").read_text())
    for table in READS:
        if made_under.get(table, 0) > contracts.load(table).version:
            raise CheckFailed(
                f"release {folder.name[:12]}: contract {table} has version {made_under[table]}, this program supports "
                f"{contracts.load(table).version}; update the program"
            )
    spaces = {}
    for path in sorted(folder.glob("*/layout.json")):
        layout = json.loads(path.read_text())
        if any(layout.get(key) != wanted for key, wanted in bundle_layout(layout["d"]).items()):
            raise CheckFailed(f"release {folder.name[:12]}: {path.parent.name}/layout.json is another program's layout")
        spaces[path.parent.name] = SpaceBundle(path.parent, layout)
    return Release(folder, provenance, spaces)
