"""Texts in Unicode's composed form (NFC): a name is one name, however its source encodes the accents."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc


def nfc(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return texts (n,) in composed form; nulls stay. Each distinct text is converted once."""
    # Not pyarrow's utf8_normalize: form="NFC" returns decomposed text in pyarrow 25.
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    coded = pc.dictionary_encode(texts)
    composed = [None if t is None else unicodedata.normalize("NFC", t) for t in coded.dictionary.to_pylist()]
    return pa.array(composed, pa.string()).take(coded.indices)
