"""Rules on a list of tracks: which tracks may be in it, and how many of one artist, album or recording.

Evaluation, gate and service build their lists with this code.

Shapes   N tracks of a catalogue by track_idx, B listeners, L places of a method's list, k places of the result
Limit    A prefix of n places contains at most max(1, ceil(limit * n / 50)) tracks of one artist (`per_artist`) or album
         (`per_album`). A track over the limit is deferred: it takes the first later place that the limit allows.
Order    the method's list, then popular tracks, then tracks that were shown too often; if these do not fill the list,
         both limits are raised by one per 50 places, as often as necessary.
Prefix   The list of k places is the beginning of the list of any larger k, unless the limits had to be raised.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Literal, get_args

import numpy as np

from models.arrays import IdVector, IntVector

Heard = Literal["keep", "leave_out", "only_new_artists"]
Flags = Sequence[int]
"""A value per track that is true or false: bytes, or a list of bool. Loops read it faster than an array."""

PER_PLACES = 50  # the limits are numbers of tracks in so many places
UNLIMITED = 1 << 30
UNKNOWN_DAY = np.iinfo(np.int32).min

# Versions of one recording differ in such a note at the end of the title. A live version or a remix is a recording of
# its own.
_NOTE = (
    r"(?:\d{4}\s+)?(?:digital(?:ly)?\s+)?(?:re-?master(?:ed)?|mono|stereo|single|album|radio|original|explicit|clean|deluxe|"
    r"bonus|expanded|anniversary)(?:\s+(?:version|edit|mix|track|edition|re-?master(?:ed)?|recording|\d{4}))*"
)
_VERSION = re.compile(rf"\s*(?:\(\s*{_NOTE}\s*\)|\[\s*{_NOTE}\s*\]|\s[-\u2013]\s+{_NOTE})\s*$")


@dataclass(frozen=True)
class ListRules:
    """The rules of lists.

    Attributes:
        per_artist: Limit of tracks of one artist in 50 places; None: no limit.
        per_album: Limit of tracks of one album in 50 places; None: no limit.
        one_recording: Whether a list contains each recording once.
        heard: What happens to tracks that the listener has heard: they are kept, left out, or left out together with
            all tracks of the artists that the listener has heard.
        min_explicit_age: Age from which explicit tracks are recommended; None: from any age. They are recommended to
            listeners of unknown age.
        diversity: Weight of the difference between the tracks of a list, 0 to 1; 0: the method's order.
        max_shown: Displays after which a track that was never played goes to the end; None: never.
    """

    per_artist: int | None = 3
    per_album: int | None = 3
    one_recording: bool = True
    heard: Heard = "keep"
    min_explicit_age: int | None = 18
    diversity: float = 0.0
    max_shown: int | None = 5

    def __post_init__(self) -> None:
        if self.heard not in get_args(Heard):
            raise ValueError(f"rules: heard must be one of {', '.join(get_args(Heard))}, got {self.heard!r}")


OFF = ListRules(per_artist=None, per_album=None, one_recording=False, min_explicit_age=None, max_shown=None)
"""No rules: the method's list as it is."""


def protocol(rules: ListRules) -> ListRules:
    """Return the rules under which methods are compared: none but the rule on heard tracks, which the data requires."""
    return replace(OFF, heard=rules.heard)


@dataclass(frozen=True, eq=False)
class TrackFacts:
    """What the rules use of the N tracks of a catalogue, by track_idx.

    Attributes:
        artist_N: Ids of the main artists, int64.
        album_N: Ids of the albums, int64.
        recording_N: Number of the recording, int32; equal numbers are versions of one recording.
        explicit_N: Whether the lyrics are known to be explicit, bool.
        available_N: False for tracks that cannot be played anywhere, bool.
        released_N: Release date in days since 1970, int32; UNKNOWN_DAY where unknown.
        countries: Country code -> (N,) bool: whether the track can be played in that country. Only countries that some
            track names; in another country the tracks of `everywhere_N` can be played.
        everywhere_N: Whether the track can be played in every country, bool.
    """

    artist_N: IdVector
    album_N: IdVector
    recording_N: IntVector
    explicit_N: np.ndarray
    available_N: np.ndarray
    released_N: IntVector
    countries: dict[str, np.ndarray] = field(default_factory=dict)
    everywhere_N: np.ndarray | None = None

    @classmethod
    def unknown(cls, artist_N: IdVector, album_N: IdVector) -> TrackFacts:
        """Return the facts of tracks of which only artist and album are known."""
        n = len(artist_N)
        no, released = np.zeros(n, bool), np.full(n, UNKNOWN_DAY, np.int32)
        return cls(artist_N, album_N, np.arange(n, dtype=np.int32), no, ~no, released)

    def __len__(self) -> int:
        """Return N."""
        return len(self.artist_N)

    @cached_property
    def artists(self) -> list[int]:
        """`artist_N` as a list, which loops read faster."""
        artists: list[int] = self.artist_N.tolist()
        return artists

    @cached_property
    def albums(self) -> list[int]:
        """`album_N` as a list."""
        albums: list[int] = self.album_N.tolist()
        return albums

    @cached_property
    def recordings(self) -> list[int]:
        """`recording_N` as a list."""
        recordings: list[int] = self.recording_N.tolist()
        return recordings

    @cached_property
    def tracks_of_artist(self) -> dict[int, list[int]]:
        """track_idx of the tracks of each artist, ascending."""
        return _group(self.artists)

    @cached_property
    def tracks_of_album(self) -> dict[int, list[int]]:
        """track_idx of the tracks of each album, ascending."""
        return _group(self.albums)

    def excluded(
        self,
        rules: ListRules,
        *,
        tracks: Iterable[int] = (),
        artists: Iterable[int] = (),
        albums: Iterable[int] = (),
        heard: Iterable[int] = (),
    ) -> set[int]:
        """Return the track_idx that must not be in a listener's list.

        Args:
            rules: The rules; `heard` decides about heard tracks.
            tracks: track_idx that the listener banned, or that the request excludes.
            artists: Ids of the artists that the listener banned, or that the request excludes.
            albums: Ids of such albums.
            heard: track_idx that the listener has heard.
        """
        result = set(tracks)
        for artist in artists:
            result.update(self.tracks_of_artist.get(artist, ()))
        for album in albums:
            result.update(self.tracks_of_album.get(album, ()))
        if rules.heard == "leave_out":
            result.update(heard)
        elif rules.heard == "only_new_artists":
            for artist in {self.artists[i] for i in heard}:
                result.update(self.tracks_of_artist[artist])
        return result

    def hidden(self, country: str | None, age: int | None, rules: ListRules) -> np.ndarray:
        """Return which tracks a listener cannot play or is too young for, (N,) bool.

        Args:
            country: The listener's country; None: unknown, so that only availability everywhere counts.
            age: The listener's age; None: unknown.
            rules: The rules.
        """
        hidden_N = ~self.available_N
        if country is not None and self.everywhere_N is not None:
            hidden_N = hidden_N | ~self.countries.get(country, self.everywhere_N)
        if age is not None and rules.min_explicit_age is not None and age < rules.min_explicit_age:
            hidden_N = hidden_N | self.explicit_N
        return hidden_N


def _group(keys: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return groups


def recording_groups(
    recording_id: Sequence[str | None], artist_id: Sequence[int], title: Sequence[str | None]
) -> IntVector:
    """Return the number of the recording of each track, (N,) int32: the track_idx of its first version.

    Tracks are versions of one recording if they have the same recording id, or, where one of them has none, the same
    artist and the same title without notes such as "(Remastered 2011)".

    Args:
        recording_id: Recording ids (N,), such as ISRCs; None where unknown.
        artist_id: Ids of the main artists (N,).
        title: Titles (N,); None where unknown.
    """
    by_id: dict[str, int] = {}
    by_title: dict[tuple[int, str], int] = {}
    without_id: dict[tuple[int, str], int] = {}
    groups = np.empty(len(recording_id), np.int32)
    for i, (recording, artist, name) in enumerate(zip(recording_id, artist_id, title, strict=True)):
        key = (artist, plain_title(name)) if name else None
        group = by_id.get(recording) if recording else None
        if group is None and key is not None:
            # A track with an id of its own joins only a group that has no id yet.
            group = (without_id if recording else by_title).get(key)
        if group is None:
            group = i
        if recording:
            by_id.setdefault(recording, group)
        if key is not None:
            by_title.setdefault(key, group)
            if recording:
                without_id.pop(key, None)
            elif by_title[key] == i:
                without_id[key] = i
        groups[i] = group
    return groups


def plain_title(title: str) -> str:
    """Return a title for comparison: composed (NFC), in lower case, without a note on the version at its end."""
    text = " ".join(unicodedata.normalize("NFC", title).casefold().split())
    while (shorter := _VERSION.sub("", text)) and shorter != text:
        text = shorter
    return text


@lru_cache(maxsize=256)
def limits(limit: int | None, k: int) -> tuple[int, ...]:
    """Return the largest number of tracks of one artist or album in the first n places, at index n, from 0 to k."""
    if limit is None:
        return (UNLIMITED,) * (k + 1)
    return tuple(max(1, math.ceil(limit * n / PER_PLACES)) for n in range(k + 1))


class ListBuilder:
    """Builds the list of one listener from candidates, best first.

    Attributes:
        chosen: The list so far, as track_idx.
        relaxed: How often the limits were raised.
    """

    def __init__(
        self,
        facts: TrackFacts,
        k: int,
        rules: ListRules,
        excluded: Container[int] = frozenset(),
        hidden: Flags | None = None,
        shown: Container[int] = frozenset(),
    ) -> None:
        """Start an empty list.

        Args:
            facts: The catalogue.
            k: Number of places.
            rules: The rules.
            excluded: track_idx that must not be in the list.
            hidden: By track_idx, whether a track must not be in the list; None: no track.
            shown: track_idx that `add` leaves for `add_shown`.
        """
        self.chosen: list[int] = []
        self.relaxed = 0
        self._facts, self._k, self._rules = facts, k, rules
        self._excluded, self._hidden, self._shown = excluded, hidden, shown
        self._artist_limits, self._album_limits = limits(rules.per_artist, k), limits(rules.per_album, k)
        self._n_of_artist: dict[int, int] = {}
        self._n_of_album: dict[int, int] = {}
        self._recordings: set[int] = set()
        self._seen: set[int] = set()
        self._deferred: list[int] = []
        self._passed_over: list[int] = []

    @property
    def used(self) -> set[int]:
        """The candidates so far that are neither excluded nor hidden. Other tracks have not affected the list."""
        return self._seen

    @property
    def full(self) -> bool:
        """Whether all places are filled."""
        return len(self.chosen) >= self._k

    def add(self, candidates: Iterable[int]) -> bool:
        """Add candidates in their order while there is room; return whether the list is full."""
        self._place(self._allowed(candidates))
        return self.full

    def add_shown(self) -> bool:
        """Add the tracks that were passed over because they had been shown; return whether the list is full."""
        shown, self._passed_over = self._passed_over, []
        self._place(shown)
        return self.full

    def relax(self) -> None:
        """Raise both limits until the list is full or no track is deferred."""
        while not self.full and self._deferred:
            self.relaxed += 1
            per_artist, per_album = (
                None if limit is None else limit + self.relaxed
                for limit in (self._rules.per_artist, self._rules.per_album)
            )
            self._artist_limits, self._album_limits = limits(per_artist, self._k), limits(per_album, self._k)
            deferred, self._deferred = self._deferred, []
            self._place(deferred)

    def _allowed(self, candidates: Iterable[int]) -> Iterator[int]:
        """Yield the new candidates that may be in the list; those that were shown often enough are kept for later."""
        excluded, hidden, seen, shown = self._excluded, self._hidden, self._seen, self._shown
        for i in candidates:
            if i in seen or i in excluded or (hidden is not None and hidden[i]):
                continue
            seen.add(i)
            if i in shown:
                self._passed_over.append(i)
            else:
                yield i

    def _place(self, tracks: Iterable[int]) -> None:
        """Append or defer tracks in their order while there is room; whenever a limit rises, the deferred come first.

        All in one loop, without calls: it runs about a hundred times per list, in every response.
        """
        artists, albums, recording_of = self._facts.artists, self._facts.albums, self._facts.recordings
        artist_limits, album_limits, once = self._artist_limits, self._album_limits, self._rules.one_recording
        n_of_artist, n_of_album, recordings = self._n_of_artist, self._n_of_album, self._recordings
        chosen, deferred, n, k = self.chosen, self._deferred, len(self.chosen), self._k
        waiting, restart = iter(tracks), n < k
        while restart:
            restart = False
            for i in waiting:
                artist, album = artists[i], albums[i]
                of_artist, of_album = n_of_artist.get(artist, 0), n_of_album.get(album, 0)
                if of_artist >= artist_limits[n + 1] or of_album >= album_limits[n + 1]:
                    deferred.append(i)
                    continue
                if once:
                    recording = recording_of[i]
                    if recording in recordings:
                        continue
                    recordings.add(recording)
                chosen.append(i)
                n_of_artist[artist], n_of_album[album] = of_artist + 1, of_album + 1
                n += 1
                if n == k:
                    return
                if deferred and (artist_limits[n + 1] > artist_limits[n] or album_limits[n + 1] > album_limits[n]):
                    waiting = chain(deferred, waiting)
                    self._deferred = deferred = []
                    restart = True
                    break


def fill_list(builder: ListBuilder, ranked: Callable[[int], list[int]], asked: int, n_tracks: int) -> int:
    """Fill a list from a method's list, then from popular tracks; then raise the limits if there are places left.

    Args:
        builder: An empty list.
        ranked: Returns the first n candidates of a method, best first, or all where there are fewer.
        asked: Number of candidates that are requested first; four times as many follow while places are left.
        n_tracks: N; track_idx are popularity ranks.

    Returns:
        The number of tracks at the beginning of the list that the method chose.
    """
    read = 0
    while True:
        candidates = ranked(asked)
        if builder.add(candidates[read:]) or len(candidates) < asked or asked >= n_tracks:
            break
        read, asked = len(candidates), min(4 * asked, n_tracks)
    n_own = len(builder.chosen)
    if not builder.full and not builder.add(range(n_tracks)) and not builder.add_shown():
        builder.relax()
    return n_own
