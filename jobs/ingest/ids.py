"""Stable 64-bit ids for entities that a dataset names by text, and for entities that it does not name.

Ids from text are in [0, 2^62), generated ids in [2^62, 2^63), so they never collide.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MADE = 1 << 62


def stable_id(text: str) -> int:
    """Return a number below 2^62 that is the same for the same text in every run and on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def stable_ids(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return ids (n,) int64 of texts (n,) without nulls; each distinct text is hashed once."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if not len(texts):
        return np.zeros(0, np.int64)
    coded = pc.dictionary_encode(texts)
    known = np.array([stable_id(text) for text in coded.dictionary.to_pylist()], np.int64)
    ids: np.ndarray = known[coded.indices.to_numpy()]
    return ids
