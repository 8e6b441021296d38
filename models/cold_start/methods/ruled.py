"""Lists of a method under the rules of lists (models/cold_start/list_rules.py), for a cohort.

Shapes   B listeners, N tracks, L places of a method's list, k places of the result
Length   A method is asked for OVER_FETCH * k tracks, so that rules seldom use up its list
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from models.arrays import FloatMatrix, IdVector, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.list_rules import ListBuilder, ListRules, TrackFacts, fill_list, protocol
from models.cold_start.methods.base import Method
from models.evaluation.diversity import select_diverse

OVER_FETCH = 4
POOL = 200  # candidates that `diversify` orders


def ruled_lists(
    method: Method,
    x_BF: FloatMatrix,
    k: int,
    first_days: FirstDays,
    track_id_N: IdVector,
    facts: TrackFacts,
    rules: ListRules,
    unit_ND: FloatMatrix,
) -> tuple[IntMatrix, IntMatrix]:
    """Return the lists of a method under the protocol of comparisons, and under all rules.

    Args:
        method: A fitted method.
        x_BF: Input vectors (B, F).
        k: Length of the lists.
        first_days: The same listeners' first days.
        track_id_N: Ids of the tracks by track_idx.
        facts: What the rules use of the tracks.
        rules: The rules.
        unit_ND: Vectors of the tracks at unit length, for `rules.diversity`.

    Returns:
        Two (B, k) of track_idx, best first. Places for which there is no track contain indices of N and above.
    """
    place = dict(zip(track_id_N.tolist(), range(len(track_id_N)), strict=True))

    def rows(block: str) -> list[list[int]]:
        ids = first_days.blocks.get(block)
        if ids is None:
            return [[] for _ in range(len(first_days))]
        return [[place[i] for i in ids.row(b).tolist() if i in place] for b in range(len(first_days))]

    heard, banned = rows("streamed_songs"), rows("banned_songs")
    off = protocol(rules)
    n_tracks, asked = len(facts), min(OVER_FETCH * k, len(facts))
    lists_BL = method.recommend(x_BF, min(method.max_k, asked), first_days)

    def longer(b: int, diversity: float, n: int) -> list[int]:
        ranking: IntMatrix = lists_BL[b]
        if n > lists_BL.shape[1] < method.max_k:
            ranking = method.recommend(x_BF[b : b + 1], min(method.max_k, n), first_days.rows(b, b + 1))[0]
        own: list[int] = (diversify(ranking, unit_ND[ranking[:POOL]], diversity) if diversity else ranking).tolist()
        return own

    @cache
    def hidden(country: str | None, age: int | None) -> bytes | None:
        flags_N = facts.hidden(country, age, rules)
        return flags_N.tobytes() if flags_N.any() else None

    minor = rules.min_explicit_age or 0
    ages = [None if age < 0 or age >= minor else age for age in first_days.age.tolist()]  # above it, all see the same
    ruled_BK, without_BK = (np.tile(n_tracks + np.arange(k, dtype=np.int32), (len(lists_BL), 1)) for _ in range(2))
    unchanged = rules.heard == "keep" and lists_BL.shape[1] >= k  # without rules, the lists are those of the method
    for b, (country, age) in enumerate(zip(first_days.country.tolist(), ages, strict=True)):
        excluded = facts.excluded(rules, tracks=banned[b], heard=heard[b])
        builder = ListBuilder(facts, k, rules, excluded, hidden(country, age))
        fill_list(builder, partial(longer, b, rules.diversity), asked, n_tracks)
        ruled_BK[b, : len(builder.chosen)] = builder.chosen
        if not unchanged:
            builder = ListBuilder(facts, k, off, facts.excluded(off, heard=heard[b]))
            fill_list(builder, partial(longer, b, 0.0), asked, n_tracks)
            without_BK[b, : len(builder.chosen)] = builder.chosen
    return (lists_BL[:, :k] if unchanged else without_BK), ruled_BK


def diversify(candidates: IntMatrix, unit_PD: FloatMatrix, diversity: float) -> IntMatrix:
    """Return candidates (L,) with the first POOL of them ordered by maximal marginal relevance.

    Args:
        candidates: track_idx (L,), best first. The relevance falls linearly with the place.
        unit_PD: Vectors of the first POOL candidates at unit length.
        diversity: Weight of the difference, 0 to 1.
    """
    pool = candidates[:POOL]
    relevance = np.linspace(1, 0, len(pool), dtype=np.float32)
    order = select_diverse(relevance, unit_PD, len(pool), diversity)
    return np.concatenate([pool[order], candidates[POOL:]])
