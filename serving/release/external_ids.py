"""External ids of a release: the form of each kind of id, and the texts of the entities where the form is text.

Shapes   n entities of one kind

    provenance.json                               "ids": the form of each kind; absent in an older release, whose ids
                                                  are all integers
    external_ids/<kind>.{ids,offsets,utf8}.npy    for track, artist, album, playlist where the form is text: ids (n,)
                                                  ascending; text i is utf8[offsets[i]:offsets[i + 1]]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.entity_ids import KINDS, MAX_STABLE_ID, Form, internal_id
from contracts.errors import CheckFailed

FOLDER = "external_ids"
ENTITY_KINDS = KINDS[1:]  # a release contains no users
PARTS = ("ids", "offsets", "utf8")


@dataclass(frozen=True, eq=False)
class IdTexts:
    """Texts of the entities of one kind: ids (n,) ascending, offsets (n + 1,), utf8 (bytes,) uint8."""

    ids: np.ndarray
    offsets: np.ndarray
    utf8: np.ndarray

    @classmethod
    def build(cls, text_by_id: Mapping[int, str]) -> IdTexts:
        """Return the arrays of a mapping from id to text."""
        ids = sorted(text_by_id)
        texts = [text_by_id[i].encode() for i in ids]
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)]).astype(np.int64)
        return cls(np.array(ids, np.int64), offsets, np.frombuffer(b"".join(texts), np.uint8))

    def of(self, ids: np.ndarray) -> list[str]:
        """Return the texts of ids that the table contains.

        Raises:
            CheckFailed: An id is not in the table.
        """
        at = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        if len(ids) and (not len(self.ids) or (self.ids[at] != ids).any()):
            raise CheckFailed(f"{FOLDER}: an entity of the release has no external id; build the release again")
        starts, ends = self.offsets[at].tolist(), self.offsets[at + 1].tolist()
        return [self.utf8[start:end].tobytes().decode() for start, end in zip(starts, ends, strict=True)]


class ExternalIds:
    """Converts ids of requests to ids inside, and back."""

    def __init__(self, forms: Mapping[str, Form], texts: Mapping[str, IdTexts]) -> None:
        """Set the forms, and the texts of each kind of entity whose form is text."""
        self.forms: dict[str, Form] = {kind: forms.get(kind, "integer") for kind in KINDS}
        self._texts = dict(texts)
        # Entities without an external id, such as sessions that stand for playlists, have ids above all hashes.
        self._generated = {kind: bool(len(t.ids)) and int(t.ids[-1]) > MAX_STABLE_ID for kind, t in texts.items()}

    def inside(self, kind: str, external: str | int) -> int | None:
        """Return the id inside, or None if `external` cannot be an id of this kind."""
        form = self.forms[kind]
        if form == "integer":
            return external if type(external) is int else internal_id(external, form)
        if self._generated.get(kind):
            number = internal_id(external, "integer")
            if number is not None and number > MAX_STABLE_ID:
                return number
        return internal_id(external, form)

    def outside(self, kind: str, inside: int) -> str:
        """Return the external id of a user with an integer id, or of an entity that the release contains."""
        return str(inside) if kind not in self._texts else self._texts[kind].of(np.array([inside], np.int64))[0]

    def all_outside(self, kind: str, ids: np.ndarray) -> list[str]:
        """Return the external ids of entities that the release contains, in the order of `ids` (n,)."""
        return [str(i) for i in ids.tolist()] if kind not in self._texts else self._texts[kind].of(ids)


def read(folder: Path, forms: Mapping[str, Form]) -> ExternalIds:
    """Open the external ids of a release.

    Args:
        folder: folder of the release.
        forms: the form of each kind, of its provenance; empty for an older release.

    Raises:
        CheckFailed: A file is missing, or files do not belong together.
    """
    texts = {kind: _open(folder, kind) for kind in ENTITY_KINDS if forms.get(kind) == "text"}
    return ExternalIds(forms, texts)


def _open(folder: Path, kind: str) -> IdTexts:
    try:
        ids, offsets, utf8 = (
            np.load(folder / FOLDER / f"{kind}.{part}.npy", mmap_mode="r", allow_pickle=False) for part in PARTS
        )
    except (OSError, ValueError) as error:
        raise CheckFailed(f"release {folder.name[:12]}: {FOLDER}/{kind} cannot be read: {error}") from None
    if len(offsets) != len(ids) + 1 or int(offsets[-1]) != len(utf8):
        raise CheckFailed(f"release {folder.name[:12]}: the files of {FOLDER}/{kind} do not belong together")
    return IdTexts(ids, offsets, utf8)
