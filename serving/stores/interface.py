"""The interface of a store of known listeners: rows by release and space, published atomically.

Shapes        B users of a block, U of a part, d width of the space, n length of a list
history       what a listener streamed and banned before the as-of time, so that the service can leave it out
part          what is published together: `warm`, the listeners that a release was trained on, or a day's new listeners
publication   one version of a part; its name contains the release and is derived from its content, so that a second
              attempt writes the same rows to the same place, and another version never touches them
notice        which publication of a part is in force: written last, atomically
read          the notices of the release that answers, then the row: warm before cold, a newer day before an older one

A release that is no longer needed is marked when another one is published and removed after `grace_s`, so that requests
which started with it still find their rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from contracts.errors import CheckFailed, OvertureError
from models.arrays import IdVector
from models.cold_start.ragged import Ragged

WARM = "warm"
Kind = Literal["warm", "cold"]
NO_IDS: IdVector = np.zeros(0, np.int64)
UNKNOWN = -1  # country or age


class History(NamedTuple):
    """What a listener did before the as-of time: ids int64 of any number, also of entities outside the catalogue.

    Attributes:
        heard_tracks: distinct tracks that the listener streamed, the last one first; at most `store.max_heard`.
        banned_tracks: tracks that the listener banned, ascending.
        banned_artists: artists that the listener banned as such, ascending; not the artists of banned tracks.
        banned_albums: albums that the listener banned as such, ascending; not the albums of banned tracks.
        demographics: `country_number` of the listener's country, and the age at the as-of time; UNKNOWN where unknown.
            Empty: both are unknown.
    """

    heard_tracks: IdVector = NO_IDS
    banned_tracks: IdVector = NO_IDS
    banned_artists: IdVector = NO_IDS
    banned_albums: IdVector = NO_IDS
    demographics: IdVector = NO_IDS

    @property
    def country(self) -> str | None:
        """The listener's country, or None."""
        number = int(self.demographics[0]) if len(self.demographics) else UNKNOWN
        return "".join(chr(ord("A") + place) for place in divmod(number, 26)) if 0 <= number < 26 * 26 else None

    @property
    def age(self) -> int | None:
        """The listener's age in years, or None."""
        age = int(self.demographics[1]) if len(self.demographics) else UNKNOWN
        return age if age >= 0 else None


HISTORY = History._fields


def country_number(country: str | None) -> int:
    """Return a country code as a number from 0 (AA) to 675 (ZZ); UNKNOWN for None."""
    if country is None:
        return UNKNOWN
    first, second = (ord(letter) - ord("A") for letter in country)
    return 26 * first + second


class StoreUnavailable(OvertureError):
    """The store is unavailable; exit code 1: a retry may help."""


class NotPublished(OvertureError):
    """The store is available, but does not contain the warm users of this release, or nothing of it."""


@dataclass(frozen=True, eq=False)
class UserRow:
    """A known listener: vector (d,) float32, segment, ids of the best tracks (n,) int64, best first, -1 where none.

    `since` is an ISO date: for a warm listener the week of the vector, for a cold one the registration day. The list
    contains nothing that the listener had banned at any level. The last fields are those of History.
    """

    user_id: int
    kind: Kind
    since: str
    vector_D: np.ndarray
    segment_id: int
    track_ids: np.ndarray
    heard_tracks: IdVector = field(default_factory=lambda: NO_IDS)
    banned_tracks: IdVector = field(default_factory=lambda: NO_IDS)
    banned_artists: IdVector = field(default_factory=lambda: NO_IDS)
    banned_albums: IdVector = field(default_factory=lambda: NO_IDS)
    demographics: IdVector = field(default_factory=lambda: NO_IDS)

    @property
    def history(self) -> History:
        """The lists of History together."""
        return History(*(getattr(self, name) for name in HISTORY))


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of B users: ids (B,) int64, vectors (B, d) float32, segments (B,) int32, track ids (B, n) int64.

    `history` has B lists of ids for names of HISTORY; a name that is missing is an empty list for every user.
    """

    user_ids: np.ndarray
    vectors_BD: np.ndarray
    segments_B: np.ndarray
    tracks_Bn: np.ndarray
    history: Mapping[str, Ragged] = field(default_factory=dict)

    def history_of(self, b: int) -> History:
        """Return the history of the user at position b."""
        return History(**{name: lists.row(b) for name, lists in self.history.items()})

    def rows(self, part_rows: StorePart) -> list[UserRow]:
        """Return one row per user."""
        columns = zip(self.user_ids.tolist(), self.vectors_BD, self.segments_B.tolist(), self.tracks_Bn, strict=True)
        return [
            UserRow(user, part_rows.kind, part_rows.since, vector_D, segment, track_ids, *self.history_of(b))
            for b, (user, vector_D, segment, track_ids) in enumerate(columns)
        ]


@dataclass(frozen=True, eq=False)
class StorePart:
    """What is to be published: its users (U,), distinct, in any order; the rows come in blocks.

    Raises:
        ValueError: users are not distinct integers.
    """

    release: str
    space: str
    part: str
    since: str
    user_ids: np.ndarray
    d: int
    n: int
    made_of: str

    def __post_init__(self) -> None:
        ids = self.user_ids
        if ids.ndim != 1 or ids.dtype != np.int64 or len(np.unique(ids)) != len(ids):
            raise ValueError(f"part {self.part}: user ids must be distinct int64 (U,), got {ids.dtype} {ids.shape}")

    @property
    def kind(self) -> Kind:
        """Kind of the listeners of this part."""
        return "warm" if self.part == WARM else "cold"

    @property
    def publication(self) -> str:
        """Name of this publication: the release's first digits, and a digest of everything that determines its rows."""
        identity = "/".join((self.release, self.space, self.part, self.since, str(self.d), str(self.n), self.made_of))
        return f"{self.release[:12]}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    @property
    def notice(self) -> Notice:
        """The notice, which is written last."""
        return Notice(self.publication, self.since, len(self.user_ids))


@dataclass(frozen=True)
class Notice:
    """The publication of a part that is in force."""

    publication: str
    since: str
    users: int

    @classmethod
    def read(cls, text: str | bytes, what: str) -> Notice:
        """Return the notice that was written as JSON.

        Raises:
            CheckFailed: `what` is not a notice.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CheckFailed(f"stores: {what} is damaged: {error}; publish the release again") from None


class UserStore(Protocol):
    """Rows of known listeners. Every method raises StoreUnavailable if the store is unavailable."""

    @property
    def name(self) -> str:
        """Kind and address of the store, without a password."""

    def notices(self, release: str, space: str) -> dict[str, Notice]:
        """Return the parts in force by name; empty if nothing has been published."""

    def row(self, release: str, space: str, user_id: int, notices: dict[str, Notice]) -> UserRow | None:
        """Return the user's row in the first of these parts that has one."""

    def publish(self, part_rows: StorePart, blocks: Iterable[Block]) -> None:
        """Write all rows, then the notice; then remove the publication that it replaces."""

    def releases(self) -> dict[str, float | None]:
        """Return every release that has rows, and when it was marked as retired (seconds since 1970)."""

    def retire(self, release: str, at: float | None) -> None:
        """Mark a release, or clear the mark."""

    def remove(self, release: str) -> None:
        """Remove a release's notices, then its rows, then the release."""

    def close(self) -> None:
        """Close connections and files."""


def find_user(store: UserStore, release: str, space: str, user_id: int) -> UserRow | None:
    """Return the store's row of a user under this release, or None for a user whom the release does not know.

    Raises:
        NotPublished: the store has no row of this user, and the warm users of this release are not published.
        StoreUnavailable: the store is unavailable.
    """
    notices = store.notices(release, space)
    while notices:
        row = store.row(release, space, user_id, notices)
        if row is not None:
            return row
        # A publication may be replaced and removed between the two reads: read again.
        if (now := store.notices(release, space)) == notices:
            break
        notices = now
    if WARM in notices:
        return None
    raise NotPublished(f"the {store.name} store {unpublished(release, notices)}")


def unpublished(release: str, notices: Mapping[str, Notice]) -> str:
    """Return what the store lacks of a release whose warm users are not published, and what to do."""
    users = "only the new users" if notices else "no users"
    return f"contains {users} of release {release[:12]}; run `overture release publish`"


def read_order(notices: dict[str, Notice]) -> list[Notice]:
    """Return warm first, then days from the newest to the oldest."""
    days = sorted((part for part in notices if part != WARM), reverse=True)
    return [notices[part] for part in (WARM, *days) if part in notices]


def checked_blocks(part_rows: StorePart, blocks: Iterable[Block]) -> Iterable[Block]:
    """Yield the blocks after checking them against the part.

    Raises:
        CheckFailed: rows of other users or of other shapes, a user twice, or a user without a row.
    """
    left = np.sort(part_rows.user_ids)
    seen = np.zeros(len(left), bool)
    for block in blocks:
        size = len(block.user_ids)
        if block.vectors_BD.shape != (size, part_rows.d) or block.tracks_Bn.shape != (size, part_rows.n):
            shapes = f"vectors {block.vectors_BD.shape}, lists {block.tracks_Bn.shape}"
            raise CheckFailed(f"publish {part_rows.part}: {shapes}; wanted {part_rows.d} and {part_rows.n} a user")
        if any(name not in HISTORY or len(lists) != size for name, lists in block.history.items()):
            lengths = {name: len(lists) for name, lists in block.history.items()}
            raise CheckFailed(
                f"publish {part_rows.part}: history {lengths}; wanted {size} lists of {', '.join(HISTORY)}"
            )
        at = np.searchsorted(left, block.user_ids)
        known = at < len(left)
        known[known] = left[at[known]] == block.user_ids[known]
        if not known.all() or seen[at].any() or len(np.unique(at)) != size:
            raise CheckFailed(
                f"publish {part_rows.part}: a block contains a user twice, or one that is not in the part"
            )
        seen[at] = True
        yield block
    if not seen.all():
        raise CheckFailed(f"publish {part_rows.part}: {int((~seen).sum())} of {len(left)} users have no row")


def pack_history(history: History) -> bytes:
    """Return a history as bytes: the length of each list as uint32, then their ids as int64, little-endian."""
    lengths = np.array([len(ids) for ids in history], "<u4")
    return lengths.tobytes() + b"".join(ids.astype("<i8").tobytes() for ids in history)


def unpack_history(value: bytes | memoryview) -> History:
    """Return the history that was packed; the arrays are views.

    Raises:
        ValueError: the bytes are not a history.
    """
    lengths = np.frombuffer(value, "<u4", len(HISTORY)).astype(np.int64)
    ends = np.cumsum(lengths).tolist()
    ids = np.frombuffer(value, "<i8", offset=4 * len(HISTORY)) if ends[-1] else NO_IDS
    if len(value) != 4 * len(HISTORY) + 8 * ends[-1]:
        raise ValueError("a history has another length than its lists")
    return History(*(ids[end - n : end] for end, n in zip(ends, lengths.tolist(), strict=True)))


def retire_and_remove(store: UserStore, keep: Sequence[str], grace_s: float) -> dict[str, list[str]]:
    """Mark every release but those kept; remove those that were marked at least `grace_s` seconds ago."""
    now, done = time.time(), dict[str, list[str]](retired=[], removed=[])
    for release, since in sorted(store.releases().items()):
        if release in keep:
            if since is not None:
                store.retire(release, None)
        elif since is None and grace_s > 0:
            store.retire(release, now)
            done["retired"].append(release)
        elif since is None or now - since >= grace_s:
            store.remove(release)
            done["removed"].append(release)
    return done
