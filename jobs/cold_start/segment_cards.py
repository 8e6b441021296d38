"""Segment cards: who the members of a segment are, and what they play more often than other listeners.

Source   Briand et al. 2021, section 4.2.3 and Table 2: countries, age classes and genres by lift
Privacy  nothing is based on fewer than `groups.min_users` listeners: a smaller segment has an empty card, and a
         trait or a track with fewer listeners is excluded
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from jobs.platform.context import Context
from models.cold_start.input_vector import AGE_CLASSES, age_classes
from models.cold_start.segments import segment_members

CARD_TRACKS = 5
CARD_TRAITS = 3
MIN_TRAIT_SHARE = 0.05
TYPICAL = 1.1  # a sentence mentions what is at least this much more frequent than among all listeners


@dataclass(frozen=True, eq=False)
class Trait:
    """One kind of trait of K segments: weights (K, T), and numbers of listeners (K, T) behind them."""

    names: list[str]
    weight: np.ndarray
    listeners: np.ndarray


def _texts(external: Iterable[str | None], inside: Iterable[int]) -> list[str]:
    """Return ids as text: the source's own, or the integer where the source's ids are integers."""
    return [text or str(number) for text, number in zip(external, inside, strict=True)]


def cards(context: Context, labels: np.ndarray, heard_UN: csr_matrix, ranking: np.ndarray) -> list[str]:
    """Return one JSON card per segment: traits by lift, the most streamed tracks, the most typical ones, a sentence."""
    week, k, floor = context.week.name, len(ranking), context.settings.groups.min_users
    demographics = warm_demographics(context)
    tracks = context.lake.read("tracks").to_pandas().set_index("track_id")
    catalog = context.lake.read("catalog", week=week).to_pandas().sort_values("track_idx")
    tracks = tracks.reindex(catalog.track_id)  # tracks that have left have no names
    tracks = tracks.astype(object).where(tracks.notna(), None)
    member_KU = csr_matrix(segment_members(labels, k))
    track_texts = _texts(tracks.external_id, catalog.track_id)
    artist_texts = _texts(tracks.artist_external_id, catalog.artist_id)
    artists = [a or f"artist {b}" for a, b in zip(tracks.artist_name, artist_texts, strict=True)]
    traits = {
        "countries": member_traits(member_KU, demographics.country.tolist()),
        "ages": member_traits(member_KU, demographics.age_class.tolist()),
        "genres": track_traits(member_KU, heard_UN, tracks.genre.tolist()),
        "artists": track_traits(member_KU, heard_UN, artists),
    }
    best = {name: lifts(trait, floor) for name, trait in traits.items()}
    titles = [
        {"track_id": text, "title": title or f"track {text}", "artist": artist}
        for text, title, artist in zip(track_texts, tracks.title, artists, strict=True)
    ]
    heard_KN = (member_KU @ heard_UN).tocsr()
    popularity_N = np.asarray(heard_UN.sum(axis=0)).ravel() / max(len(labels), 1)
    sizes = np.bincount(labels[labels >= 0], minlength=k)
    json_cards = []
    for s in range(k):
        card: dict[str, Any] = {"size": int(sizes[s])} if sizes[s] >= floor else {"size_below": floor}
        card |= {name: of_kind[s] if sizes[s] >= floor else [] for name, of_kind in best.items()}
        row = heard_KN[s]
        enough = row.data >= floor if sizes[s] >= floor else np.zeros(row.nnz, bool)
        heard, count = row.indices[enough], row.data[enough]
        known = set(heard.tolist())
        card["tracks"] = [titles[i] for i in ranking[s] if i in known][:CARD_TRACKS]
        lift = count / sizes[s] / popularity_N[heard]
        card["exemplars"] = [
            {**titles[heard[j]], "lift": round(float(lift[j]), 2)} for j in np.lexsort((heard, -lift))[:CARD_TRACKS]
        ]
        card["sentence"] = sentence(card)
        json_cards.append(json.dumps(card, sort_keys=True, ensure_ascii=False))
    return json_cards


def member_traits(member_KU: csr_matrix, names_U: list[str | None]) -> Trait:
    """Return the trait of members by a property of theirs; unknown values are excluded from the shares."""
    known, hot_UT = one_hot(names_U)
    counts = np.asarray((member_KU @ hot_UT).todense(), np.float64)
    return Trait(known, counts, counts)


def track_traits(member_KU: csr_matrix, heard_UN: csr_matrix, names_N: list[str | None]) -> Trait:
    """Return the trait of what members stream by a property of the tracks, weighted by tracks streamed."""
    known, hot_NT = one_hot(names_N)
    played_UT = (heard_UN @ hot_NT).tocsr()
    weight = np.asarray((member_KU @ played_UT).todense(), np.float64)
    played_UT.data[:] = 1
    return Trait(known, weight, np.asarray((member_KU @ played_UT).todense(), np.float64))


def one_hot(names: list[str | None]) -> tuple[list[str], csr_matrix]:
    """Return the distinct names (T), sorted, and a one-hot matrix (n, T); an unknown name is a zero row."""
    known = sorted({name for name in names if isinstance(name, str)})
    index = {name: i for i, name in enumerate(known)}
    rows = [i for i, name in enumerate(names) if isinstance(name, str)]
    columns = [index[str(names[i])] for i in rows]
    return known, csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(names), len(known)))


def lifts(trait: Trait, floor: int) -> list[list[dict[str, Any]]]:
    """Return for each segment the traits that are most over-represented against all listeners: share and lift.

    A trait needs `floor` listeners, and MIN_TRAIT_SHARE of the segment or half of its largest share, whichever is less.
    """
    if not trait.names:
        return [[] for _ in trait.weight]
    share = trait.weight / np.maximum(trait.weight.sum(1, keepdims=True), 1)
    overall = trait.weight.sum(0) / max(trait.weight.sum(), 1)
    lift = np.divide(share, overall, out=np.zeros_like(share), where=overall > 0)
    shown = (trait.listeners >= floor) & (share > 0)
    # Of a few values (ages) some have a large share; of thousands (artists) none has.
    shown &= share >= np.minimum(MIN_TRAIT_SHARE, share.max(1, keepdims=True) / 2)
    ranked = np.argsort(-np.where(shown, lift, 0), axis=1, kind="stable")[:, :CARD_TRAITS]
    return [
        [
            {"name": trait.names[j], "share": round(float(share[s, j]), 4), "lift": round(float(lift[s, j]), 2)}
            for j in ranked[s]
            if shown[s, j]
        ]
        for s in range(len(share))
    ]


def sentence(card: dict[str, Any]) -> str:
    """Return the card as one sentence: the traits that distinguish the segment from the average listener."""
    if "size" not in card:
        return f"fewer than {card['size_below']} listeners: too few to describe"
    kinds = ("ages", "countries", "genres", "artists")
    over = {kind: [t["name"] for t in card[kind] if t["lift"] > TYPICAL] for kind in kinds}
    text = f"{card['size']} listeners"
    often = [f"aged {over['ages'][0]}"] if over["ages"] else []
    often += [f"in {' or '.join(over['countries'][:2])}"] if over["countries"] else []
    liked = over["genres"][:2] or over["artists"][:2]
    if often:
        text += f", often {' and '.join(often)}{',' if liked else ''}"
    if liked:
        text += f" who play more {' and '.join(liked)} than others"
    if card["tracks"]:
        text += f"; first track: {card['tracks'][0]['title']} by {card['tracks'][0]['artist']}"
    return text


def warm_demographics(context: Context) -> pd.DataFrame:
    """Return one row per warm user in the order of user_idx: names of country and age class, None if unknown."""
    users = context.lake.read("users", columns=["user_id", "country", "age"]).to_pandas().set_index("user_id")
    warm = context.lake.read("warm_users", week=context.week.name).sort_by("user_idx")
    users = users.reindex(warm.column("user_id").to_pylist())  # users who have left are of unknown country and age
    classes = age_classes(users.age.fillna(-1).to_numpy().astype(np.int64))
    return pd.DataFrame(
        {
            "country": [name if isinstance(name, str) else None for name in users.country],
            "age_class": [AGE_CLASSES[c] if c >= 0 else None for c in classes],
        },
        dtype=object,
    )
