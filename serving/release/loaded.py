"""A release prepared to recommend: every file opened, every lookup table built, before the first request.

A request uses one `LoadedRelease` from start to end, so that no response mixes two releases. Arrays stay memory-mapped:
processes share them through the page cache of the operating system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from contracts.errors import CheckFailed
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods import Method
from models.cold_start.nearest_centroid import Centroids
from models.cold_start.top_k import ItemIndex, normalise
from models.cold_start.track_index import TrackIndex
from serving.release import input_drift
from serving.release.bundle import Release, SpaceBundle
from serving.release.onnx_session import finite
from serving.release.pointer import Pointer

if TYPE_CHECKING:
    from serving.recommend.ruled_list import ListCache

RELEASE_METHODS = ("semi_pers", "full_pers", "blend", "ranked_candidates")
FOLDER_OF = {"blend": "blend", "ranked_candidates": "ranker"}  # of the methods that not every release contains
SLOW_VALUES = 4_000_000  # of the vectors of all tracks: reading these takes about two milliseconds
KIND_OF = {"tracks": "song", "artists": "artist", "albums": "album", "playlists": "playlist"}
ID_KIND_OF = {"tracks": "track", "artists": "artist", "albums": "album", "playlists": "playlist"}


def identity(vectors_BD: np.ndarray) -> np.ndarray:
    """Return the vectors unchanged: replaces the network where a listener's vector is already known."""
    return vectors_BD


class LoadedSpace:
    """One space: its arrays, its methods over listeners' vectors, and the problems of its network."""

    def __init__(self, space: SpaceBundle, recommends: bool) -> None:
        """Open the space; `recommends` is whether the release recommends from it.

        Raises:
            CheckFailed: files that belong together differ in size.
        """
        self.space, self.d = space, int(space.layout["d"])
        self.entities, self.demographics, self.country_ages = space.entities, space.demographics, space.country_ages
        self.country_age = space.country_age
        self.tracks_ND, self.centroids_KD = space.array("track_vectors"), space.array("centroids")
        self.rankings_KL, self.segments = space.array("rankings"), space.segments
        shapes = {len(self.centroids_KD), len(self.rankings_KL), len(self.segments)}
        if len(shapes) != 1 or {self.tracks_ND.shape[1], self.centroids_KD.shape[1], self.entities.d} != {self.d}:
            raise CheckFailed(f"{space.folder.name}: vectors, centroids, rankings and segments do not belong together")
        self.cards = [orjson.Fragment(orjson.dumps(segment["card"])) for segment in self.segments]
        self._centroids = Centroids(self.centroids_KD)
        self.problems: dict[str, str] = {}
        self._items: dict[str, tuple[np.ndarray, ItemIndex | TrackIndex] | None] = {}
        self.methods: dict[str, Method] = {"popularity": space.method("popularity")}
        for name in RELEASE_METHODS if recommends else ():
            if name in FOLDER_OF and not (space.folder / FOLDER_OF[name]).is_dir():
                continue
            try:
                self.methods[name] = space.method(name, identity)
            except CheckFailed as error:
                self.problems[name] = str(error)
        try:
            self.vectors(np.zeros((1, space.layout["size"]), np.float32))
        except Exception as error:  # whatever onnxruntime raises
            self.problems["network"] = f"{type(error).__name__}: {error}"

    def vectors(self, x_BF: np.ndarray) -> np.ndarray:
        """Return the network's vectors of listeners, (B, d).

        Raises:
            CheckFailed: the vectors contain NaN or infinity, or have another width.
            Exception: whatever onnxruntime raises.
        """
        if "network" in self.problems:
            raise CheckFailed(self.problems["network"])
        return finite(self.space.predict(x_BF), (len(x_BF), self.d))

    def segments_of(self, vectors_BD: np.ndarray) -> np.ndarray:
        """Return the segment of each listener, (B,), by the rule of SemiPers."""
        return self._centroids.nearest(normalise(vectors_BD))

    def of_kind(self, kind: str) -> tuple[np.ndarray, ItemIndex | TrackIndex] | None:
        """Return ids (n,) and unit vectors of tracks (by track_idx), artists, albums, playlists or segments.

        None where there are none. Vectors are normalised at first use and kept: one more copy in memory.
        """
        if kind not in self._items:
            self._items[kind] = self._of_kind(kind)
        return self._items[kind]

    def _of_kind(self, kind: str) -> tuple[np.ndarray, ItemIndex | TrackIndex] | None:
        if kind == "segments":
            return np.arange(len(self.centroids_KD)), ItemIndex(self.centroids_KD, "cosine")
        if kind == "tracks":
            index: ItemIndex | TrackIndex | None = self.space.track_index
            if index is None or index.similarity != "cosine":
                index = ItemIndex(self.tracks_ND, "cosine")
            return self.space.catalogue.track_id_N, index
        ids = self.entities.ids[KIND_OF[kind]]
        return (ids, ItemIndex(self.entities.vectors[KIND_OF[kind]], "cosine")) if len(ids) else None


@dataclass(frozen=True, slots=True)
class Track:
    """The displayed properties of a track, with the ids inside."""

    track_id: int
    artist_id: int
    album_id: int
    title: str | None
    artist: str | None
    genre: str | None


class LoadedRelease:
    """A release that can recommend.

    Raises:
        CheckFailed: it is damaged or inconsistent; optional parts that are missing are listed in `problems`.
    """

    def __init__(self, release: Release, pointer: Pointer) -> None:
        self.release, self.pointer, self.name, self.week = release, pointer, release.folder.name, release.week
        self.space_name, self.configured = release.space_and_method
        if self.space_name not in release.spaces:
            raise CheckFailed(
                f"release {self.name[:12]}: it recommends from {self.space_name}, which it does not contain"
            )
        self.rules, self.facts = release.rules, release.track_facts
        self.list_cache: ListCache | None = None
        self.spaces = {name: LoadedSpace(space, name == self.space_name) for name, space in release.spaces.items()}
        self.space = self.spaces[self.space_name]
        if self.configured not in (*self.space.methods, *self.space.problems):
            raise CheckFailed(
                f"release {self.name[:12]}: it recommends with {self.configured}, which it does not contain"
            )
        ids = self.space.space.catalogue
        artist, album = ids.artist_id_N.tolist(), ids.album_id_N.tolist()
        names = release.names
        self.ids = release.external_ids
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
        # External id of each track, and as schema.Track, already in JSON: a response joins fifty of them.
        self.track_texts = self.ids.all_outside("track", ids.track_id_N)
        is_new = release.is_new_release.tolist()
        if len(is_new) != len(self.tracks):
            raise CheckFailed(f"release {self.name[:12]}: {len(self.tracks)} tracks, {len(is_new)} in new_release.npy")
        artist_texts = self.ids.all_outside("artist", ids.artist_id_N)
        album_texts = self.ids.all_outside("album", ids.album_id_N)
        self.track_json = [
            orjson.Fragment(
                orjson.dumps(
                    {
                        "track_id": self.track_texts[i],
                        "title": track.title,
                        "artist_id": artist_texts[i],
                        "artist": track.artist,
                        "album_id": album_texts[i],
                        **({"new_release": True} if is_new[i] else {}),
                    }
                )
            )
            for i, track in enumerate(self.tracks)
        ]
        self.track_idx = {track.track_id: i for i, track in enumerate(self.tracks)}
        # The most popular track of an artist or an album gives it its name and its rank.
        self.most_popular_at: dict[str, dict[int, int]] = {"artists": {}, "albums": {}}
        for i, track in enumerate(self.tracks):
            self.most_popular_at["artists"].setdefault(track.artist_id, i)
            self.most_popular_at["albums"].setdefault(track.album_id, i)
        # Ids that have a vector. Looking up a few ids in a set is much faster than searching arrays.
        entities = self.space.entities.ids
        self.known_ids = {kind: frozenset(entities[name].tolist()) for kind, name in KIND_OF.items()}
        self.space.of_kind("playlists")
        self.notes: dict[str, str] = {}
        self.watch = self._watch()
        self.previous: LoadedRelease | None = None  # serves known listeners until this release's are published

    def _watch(self) -> input_drift.NoDriftMonitor:
        """Return the drift monitor; an older release has no training distribution."""
        if self.release.training_inputs is None:
            self.notes["drift"] = (
                f"not measured: this release contains no {input_drift.NAME}; it was built by an older version"
            )
            return input_drift.NoDriftMonitor()
        try:
            return input_drift.DriftMonitor(self.release.training_inputs)
        except (ValueError, KeyError, TypeError) as error:
            self.notes["drift"] = f"not measured: {error}"
            return input_drift.NoDriftMonitor()

    def is_slow(self, method: str) -> bool:
        """Return whether one list of a method, or "configured", takes longer than the event loop may wait."""
        name = self.configured if method == "configured" else method
        if name == "ranked_candidates":  # the features take several milliseconds
            return True
        return name in ("full_pers", "blend") and self.space.tracks_ND.size > SLOW_VALUES

    @property
    def problems(self) -> dict[str, str]:
        """Problems of the space that recommends, by part; empty if there are none."""
        return self.space.problems

    def inputs(self, days: FirstDays) -> np.ndarray:
        """Return the input vectors (B, F), computed by the function of training."""
        return self.release.inputs(self.space_name, days)

    def label(self, kind: str, entity_id: int) -> str | None:
        """Return the displayed name of an entity, if it has one."""
        if kind == "tracks":
            at = self.track_idx.get(entity_id)
            return None if at is None else self.tracks[at].title
        at = self.most_popular_at.get(kind, {}).get(entity_id)
        return self.tracks[at].artist if at is not None and kind == "artists" else None
