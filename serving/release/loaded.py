"""A release made ready to answer: every file opened, every table looked up once, before the first request sees it.

One `Ready` answers a request from its first line to its last, so that no answer is a mixture of two releases.
Arrays stay memory-mapped: two processes share them through the operating system's page cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson

from contracts.errors import CheckFailed
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods import Method
from models.cold_start.nearest_centroid import Centroids
from models.cold_start.top_k import ItemIndex, normalise
from serving.release import input_drift
from serving.release.bundle import OpenSpace, Release
from serving.release.onnx_session import finite
from serving.release.pointer import Pointer

OURS = ("semi_pers", "full_pers", "blend")
KIND_OF = {"tracks": "song", "artists": "artist", "albums": "album", "playlists": "playlist"}


def as_it_is(vectors_BD: np.ndarray) -> np.ndarray:
    """Stands in for the network where a listener's vector is known already."""
    return vectors_BD


class ReadySpace:
    """One space: its arrays, its methods over listeners' vectors, and what is wrong with its network."""

    def __init__(self, space: OpenSpace, answers: bool) -> None:
        """`answers`: this is the space that the release recommends from.

        Raises:
            CheckFailed: files that belong together differ in size.
        """
        self.space, self.d = space, int(space.layout["d"])
        self.entities, self.demographics, self.country_ages = space.entities, space.demographics, space.country_ages
        self.tracks_ND, self.centroids_KD = space.array("track_vectors"), space.array("centroids")
        self.rankings_KL, self.segments = space.array("rankings"), space.segments
        shapes = {len(self.centroids_KD), len(self.rankings_KL), len(self.segments)}
        if len(shapes) != 1 or {self.tracks_ND.shape[1], self.centroids_KD.shape[1], self.entities.d} != {self.d}:
            raise CheckFailed(f"{space.folder.name}: vectors, centroids, rankings and segments do not belong together")
        self.cards = [orjson.Fragment(orjson.dumps(segment["card"])) for segment in self.segments]
        self._centroids = Centroids(self.centroids_KD)
        self.problems: dict[str, str] = {}
        self._items: dict[str, tuple[np.ndarray, ItemIndex] | None] = {}
        self.methods: dict[str, Method] = {"popularity": space.method("popularity")}
        for name in OURS if answers else ():
            if name == "blend" and not (space.folder / "blend").is_dir():
                continue
            try:
                self.methods[name] = space.method(name, as_it_is)
            except CheckFailed as error:
                self.problems[name] = str(error)
        try:
            self.vectors(np.zeros((1, space.layout["size"]), np.float32))
        except Exception as error:  # whatever onnxruntime throws
            self.problems["network"] = f"{type(error).__name__}: {error}"

    def vectors(self, x_BF: np.ndarray) -> np.ndarray:
        """What the network says about listeners, (B, d).

        Raises:
            Exception: whatever onnxruntime throws; CheckFailed for NaN, infinity or another width.
        """
        if "network" in self.problems:
            raise CheckFailed(self.problems["network"])
        return finite(self.space.predict(x_BF), (len(x_BF), self.d))

    def segments_of(self, vectors_BD: np.ndarray) -> np.ndarray:
        """Segment of each listener, (B,): the rule of SemiPers."""
        return self._centroids.nearest(normalise(vectors_BD))

    def of_kind(self, kind: str) -> tuple[np.ndarray, ItemIndex] | None:
        """Ids (n,) and vectors at unit length of tracks (by track_idx), artists, albums, playlists or segments.

        None where there are none. Brought to length at first use, then kept: one more copy of the vectors in memory.
        """
        if kind not in self._items:
            self._items[kind] = self._of_kind(kind)
        return self._items[kind]

    def _of_kind(self, kind: str) -> tuple[np.ndarray, ItemIndex] | None:
        if kind == "segments":
            return np.arange(len(self.centroids_KD)), ItemIndex(self.centroids_KD)
        if kind == "tracks":
            return self.space.catalogue.track_id_N, ItemIndex(self.tracks_ND)
        ids = self.entities.ids[KIND_OF[kind]]
        return (ids, ItemIndex(self.entities.vectors[KIND_OF[kind]])) if len(ids) else None


@dataclass(frozen=True)
class Track:
    """What is told about a track."""

    track_id: int
    artist_id: int
    album_id: int
    title: str | None
    artist: str | None
    genre: str | None


class Ready:
    """A release that answers.

    Raises:
        CheckFailed: it is damaged or does not hold together; what is merely missing stands in `problems`.
    """

    def __init__(self, release: Release, pointer: Pointer) -> None:
        self.release, self.pointer, self.name, self.week = release, pointer, release.folder.name, release.week
        self.space_name, self.configured = release.answers
        if self.space_name not in release.spaces:
            raise CheckFailed(f"release {self.name[:12]}: it answers from {self.space_name}, which it does not hold")
        evaluation = release.provenance["settings"].get("evaluation", {})
        self.leave_out_first_day = bool(evaluation.get("leave_out_first_day", False))
        self.spaces = {name: ReadySpace(space, name == self.space_name) for name, space in release.spaces.items()}
        self.space = self.spaces[self.space_name]
        if self.configured not in (*self.space.methods, *self.space.problems):
            raise CheckFailed(f"release {self.name[:12]}: it answers with {self.configured}, which it does not hold")
        ids = self.space.space.catalogue
        artist, album = ids.artist_id_N.tolist(), ids.album_id_N.tolist()
        names = release.names
        self.tracks = [
            Track(track, artist[i], album[i], title, name, genre)
            for i, (track, title, name, genre) in enumerate(
                zip(release.track_ids.tolist(), names["title"], names["artist_name"], names["genre"], strict=True)
            )
        ]
        if len(self.tracks) != len(self.space.tracks_ND):
            raise CheckFailed(
                f"release {self.name[:12]}: {len(self.tracks)} tracks, {len(self.space.tracks_ND)} vectors"
            )
        # As schema.Track, in JSON already: an answer joins fifty of them.
        self.shown = [
            orjson.Fragment(
                orjson.dumps(
                    {
                        "track_id": track.track_id,
                        "title": track.title,
                        "artist_id": track.artist_id,
                        "artist": track.artist,
                        "album_id": track.album_id,
                    }
                )
            )
            for track in self.tracks
        ]
        self.track_at = {track.track_id: i for i, track in enumerate(self.tracks)}
        # The most popular track of an artist or an album stands for it: it names it and gives its place.
        self.first_at: dict[str, dict[int, int]] = {"artists": {}, "albums": {}}
        for i, track in enumerate(self.tracks):
            self.first_at["artists"].setdefault(track.artist_id, i)
            self.first_at["albums"].setdefault(track.album_id, i)
        # Which ids have a vector: a set is asked a first day's few in a fraction of what a search in arrays takes.
        entities = self.space.entities.ids
        self.known = {kind: frozenset(entities[name].tolist()) for kind, name in KIND_OF.items()}
        self.space.of_kind("playlists")
        self.notes: dict[str, str] = {}
        self.watch = self._watch()
        self.before: Ready | None = None  # whose known listeners are served until this one's are published

    def _watch(self) -> input_drift.Blind:
        """What compares listeners with those of training; an older release does not tell of them."""
        if self.release.training_inputs is None:
            self.notes["drift"] = (
                f"not measured: this release holds no {input_drift.NAME}, it was made before there was one"
            )
            return input_drift.Blind()
        try:
            return input_drift.Watch(self.release.training_inputs)
        except (ValueError, KeyError, TypeError) as error:
            self.notes["drift"] = f"not measured: {error}"
            return input_drift.Blind()

    @property
    def problems(self) -> dict[str, str]:
        """What of the answering space does not work, by part; empty for a whole release."""
        return self.space.problems

    def inputs(self, days: FirstDays) -> np.ndarray:
        """Input vectors (B, F): the release's own function, which is the one of training."""
        return self.release.inputs(self.space_name, days)

    def label(self, kind: str, entity_id: int) -> str | None:
        """A name for people, where there is one."""
        if kind == "tracks":
            at = self.track_at.get(entity_id)
            return None if at is None else self.tracks[at].title
        at = self.first_at.get(kind, {}).get(entity_id)
        return self.tracks[at].artist if at is not None and kind == "artists" else None
