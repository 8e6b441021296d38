"""Lists of a method under the rules of lists (models/cold_start/list_rules.py), for a cohort.

Shapes   B listeners, N tracks, L places of a method's list, k places of the result
Length   A method is asked for OVER_FETCH * k tracks, so that rules seldom use up its list; then popular tracks follow
"""

from __future__ import annotations

from functools import cache

import numpy as np

from models.arrays import FloatMatrix, IdVector, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.list_rules import ListRules, TrackFacts, apply_rules, protocol
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
    taken = [facts.excluded(off, heard=heard[b]) for b in range(len(first_days))]
    excluded = [facts.excluded(rules, tracks=banned[b], heard=heard[b]) for b in range(len(first_days))]
    longest = max((len(one) for one in excluded), default=0)
    lists_BL = method.recommend(x_BF, min(method.max_k, len(facts), OVER_FETCH * k + longest), first_days)
    under_protocol = lists_BL[:, :k]
    if rules.heard != "keep" or lists_BL.shape[1] < k:
        under_protocol = apply_rules(lists_BL, k, facts, off, taken, [None] * len(lists_BL))

    @cache
    def hidden(country: str | None, age: int | None) -> bytes | None:
        flags_N = facts.hidden(country, age, rules)
        return flags_N.tobytes() if flags_N.any() else None

    minor = rules.min_explicit_age or 0
    listeners = zip(first_days.country.tolist(), first_days.age.tolist(), strict=True)
    # All ages on one side of the limit see the same tracks.
    unplayable = [hidden(country, None if age < 0 or age >= minor else age) for country, age in listeners]
    if rules.diversity:
        lists_BL = np.array([diversify(row, unit_ND, rules.diversity) for row in lists_BL])
    return under_protocol, apply_rules(lists_BL, k, facts, rules, excluded, unplayable)


def diversify(candidates: IntMatrix, unit_ND: FloatMatrix, diversity: float) -> IntMatrix:
    """Return candidates (L,) with the first POOL of them ordered by maximal marginal relevance.

    Args:
        candidates: track_idx (L,), best first. The relevance falls linearly with the place.
        unit_ND: Vectors of the tracks at unit length.
        diversity: Weight of the difference, 0 to 1.
    """
    pool = candidates[:POOL]
    relevance = np.linspace(1, 0, len(pool), dtype=np.float32)
    order = select_diverse(relevance, unit_ND[pool], len(pool), diversity)
    return np.concatenate([pool[order], candidates[POOL:]])
