"""Stable 64-bit ids for entities that a dataset names by text, and for entities that it does not name.

Ids from text are in [0, 2^62), generated ids in [2^62, 2^63), so they never collide.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.entity_ids import stable_id

MADE = 1 << 62


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
