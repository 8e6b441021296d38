"""Lists for new listeners, with explanations, from one release.

Shapes     B listeners, F values of an input vector, d width of the space
Method     where a list is made from the network's vector, a listener without a known interaction gets that of country
           and age instead (models/cold_start/methods/country_age.py)
Fallback   the network (for the blend: its own, then the space's) -> the mean vector of the warm listeners of the same
           country and age class -> the most popular tracks; the response names it
Lists      are made by the methods of models/cold_start/methods over the listener's vector and by the rules of
           models/cold_start/list_rules.py: the code that the gate evaluated
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from contracts.errors import BadArgument
from models.cold_start.input_vector import AGE_CLASSES, FirstDays, age_class, without_known_interactions
from models.cold_start.list_rules import ListRules
from models.cold_start.top_k import normalise
from serving.bodies import DegradedBody, KnownRecommendationBody, RecommendationBody, SegmentBody, SignalsBody
from serving.recommend.reasons import top_signals
from serving.recommend.ruled_list import SPARE, audience, build_list
from serving.recommend.signals import MAX_DEPTH, FirstDaySignals, ListParameters, cursor, days_of
from serving.release.bundle import WITH_COUNTRY_AGE
from serving.release.loaded import FOLDER_OF, LoadedRelease

NETWORK, MEAN, NOTHING = "network", "country_age_mean", "nothing"
POPULAR, COUNTRY_AGE = "popularity", "country_age"


@dataclass(frozen=True)
class Placement:
    """Vectors (B, d) of B listeners, the source of each, why the network was not used, and who gave it nothing.

    `silent_B` are the listeners without a known interaction; None if the network was not used.
    """

    vectors_BD: np.ndarray
    origin: list[str]
    why: str | None
    silent_B: np.ndarray | None = None

    def degraded(self, b: int) -> DegradedBody | None:
        """Return the fallback that was used instead of the network, or None.

        Where means were requested, only the popularity fallback counts.
        """
        if self.origin[b] == NETWORK or (self.why is None and self.origin[b] == MEAN):
            return None
        to = MEAN if self.origin[b] == MEAN else POPULAR
        why = "neither country nor age is known" if self.why is None else f"the network failed: {self.why}"
        return {"fallback": to, "reason": why}


def place(loaded: LoadedRelease, days: FirstDays) -> Placement:
    """Return the vectors of B listeners from the network, or from the means of country and age class if it fails."""
    try:
        x_BF = loaded.inputs(days)
        return Placement(loaded.space.vectors(x_BF), [NETWORK] * len(days), None, without_known_interactions(x_BF))
    except Exception as error:  # whatever onnxruntime raises: a fallback is better than an error
        return place_by_means(loaded, days, first_line(error))


def place_by_means(loaded: LoadedRelease, days: FirstDays, why: str | None) -> Placement:
    """Return the vectors of B listeners as the means of their country and age class, of one of them, or none."""
    means = [demographic_mean(loaded, days.country[b], int(days.age[b])) for b in range(len(days))]
    vectors = np.stack([np.zeros(loaded.space.d, np.float32) if mean is None else mean for mean in means])
    return Placement(vectors, [NOTHING if mean is None else MEAN for mean in means], why)


def demographic_mean(loaded: LoadedRelease, country: str | None, age: int) -> np.ndarray | None:
    """Return the mean vector (d,) of the warm listeners of a country and age class, of one of them, or None."""
    at, space = age_class(age), loaded.space
    both = space.country_ages.get(f"{country}/{AGE_CLASSES[at]}") if at >= 0 else None
    age_mean = space.demographics.age_class[at] if at >= 0 else None
    candidates = (both, space.demographics.country.get(country or ""), age_mean)
    return next((mean for mean in candidates if mean is not None and mean.any()), None)


def first_line(error: Exception) -> str:
    """Return the first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def recommend(
    loaded: LoadedRelease,
    listeners: Sequence[FirstDaySignals],
    options: ListParameters,
    explain: bool = False,
    days: FirstDays | None = None,
) -> list[RecommendationBody]:
    """Return a response body for each of B listeners (schema.Recommendation); `tracks` are track_idx.

    `with_track_details` replaces them by schema.Track.

    Args:
        loaded: the release.
        listeners: B listeners.
        options: method, length and exclusions.
        explain: whether to measure the contributions of signals.
        days: first days of the listeners, where they have been computed (and counted) before.

    Raises:
        BadArgument: the release does not contain the requested method, or has fewer than k tracks.
    """
    wanted = loaded.configured if options.method == "configured" else options.method
    by_means = wanted == MEAN
    if by_means:  # the segment nearest to the mean vector: the former system in the paper
        wanted = "semi_pers"
    if wanted not in loaded.space.methods and wanted not in loaded.space.problems:
        have = ", ".join(sorted(loaded.space.methods))
        raise BadArgument(f"method: release {loaded.name[:12]} does not contain {wanted}; it contains {have}")
    if options.k > len(loaded.tracks):
        raise BadArgument(f"k: {options.k} is more than the {len(loaded.tracks)} tracks of the release")
    if days is None:
        days = loaded.watch.count(days_of(loaded, listeners))
    placed = place_by_means(loaded, days, None) if by_means else place(loaded, days)
    segment_B = loaded.space.segments_of(placed.vectors_BD)
    distance_B = distances(loaded, placed.vectors_BD, segment_B)
    rules, depth = options.rules or loaded.rules, options.offset + options.k
    ranked, methods, degraded = rank(loaded, wanted, depth + SPARE, days, placed, segment_B)
    bodies: list[RecommendationBody] = []
    for b, listener in enumerate(listeners):
        one = build_list(
            loaded,
            depth,
            partial(longer_list, loaded, methods[b], days, placed, segment_B, b, ranked[b], depth + SPARE),
            rules,
            excluded_tracks(loaded, listener, options, rules),
            audience(loaded, rules, listener.country, listener.age, options.filters, options.block_list),
            often_shown(loaded, listener, options, rules),
            ranking_of_release(methods[b], int(segment_B[b])),
        )
        chosen = one.tracks[options.offset :] if options.offset else one.tracks
        segment = None if placed.origin[b] == NOTHING else int(segment_B[b])
        bodies.append(
            {
                "release": loaded.name,
                "week": loaded.week,
                "space": loaded.space_name,
                "method": methods[b],
                "vector_source": placed.origin[b],
                "degraded": degraded[b],
                "tracks": chosen,
                "n_filled": min(len(chosen), len(one.tracks) - one.n_own),
                "relaxed": one.relaxed,
                "short": one.short,
                "cursor": next_cursor(loaded, depth, one.short),
                "segment": None if segment is None else segment_body(loaded, segment, distance_B[b]),
                "reasons": {
                    "text": list_explanation(loaded, methods[b], segment),
                    **signal_contributions(loaded, listener, placed, b, segment if explain else None),
                },
                "unknown": listener.unknown,
            }
        )
    return bodies


def signal_contributions(
    loaded: LoadedRelease, listener: FirstDaySignals, placed: Placement, b: int, segment: int | None
) -> SignalsBody:
    """Return `top_signals` and `n_signals` of schema.Reasons; null if not requested or if the network fails."""
    nothing: SignalsBody = {"top_signals": None, "n_signals": None}
    if segment is None or placed.origin[b] != NETWORK:
        return nothing
    try:
        return top_signals(loaded, listener, placed.vectors_BD[b], segment)
    except Exception:  # whatever onnxruntime raises: the list is valid without it
        return nothing


def rank(
    loaded: LoadedRelease, wanted: str, n: int, days: FirstDays, placed: Placement, segment_B: np.ndarray
) -> tuple[list[list[int]], list[str], list[DegradedBody | None]]:
    """Return for each listener up to n track_idx, the method that was used, and the fallback if one was needed."""
    degraded: DegradedBody | None = None
    if wanted in loaded.space.problems and wanted not in loaded.space.methods:
        degraded = {"fallback": "semi_pers", "reason": f"{wanted} is unavailable: {loaded.space.problems[wanted]}"}
        wanted = "semi_pers"

    def ranked_by(name: str) -> list[list[int]]:
        return ranked_lists(loaded, name, n, days, placed.vectors_BD, segment_B)

    if wanted in FOLDER_OF:
        try:
            return ranked_by(wanted), [wanted] * len(days), [None] * len(days)
        except Exception as error:  # whatever onnxruntime raises
            degraded, wanted = {"fallback": "semi_pers", "reason": f"{wanted} failed: {first_line(error)}"}, "semi_pers"
    if wanted == POPULAR:
        return ranked_by(POPULAR), [POPULAR] * len(days), [None] * len(days)
    if wanted not in loaded.space.methods:  # popularity needs no file of the release
        degraded = {"fallback": POPULAR, "reason": loaded.space.problems.get(wanted, "not in this release")}
        return ranked_by(POPULAR), [POPULAR] * len(days), [degraded] * len(days)
    lists = ranked_by(wanted)
    methods = [wanted] * len(days)
    for b, origin in enumerate(placed.origin):
        if origin == NOTHING:
            lists[b] = list(range(min(n, len(loaded.tracks))))
            methods[b] = POPULAR
    country_age = loaded.space.country_age
    if wanted in WITH_COUNTRY_AGE and country_age is not None and placed.silent_B is not None:
        for b in np.flatnonzero(placed.silent_B).tolist():
            known = country_age.group(days.country[b], age_class(int(days.age[b]))) is not None
            methods[b] = COUNTRY_AGE if known else POPULAR
            (lists[b],) = ranked_lists(
                loaded, methods[b], n, days.rows(b, b + 1), placed.vectors_BD[b : b + 1], segment_B[b : b + 1]
            )
    return lists, methods, [placed.degraded(b) or degraded for b in range(len(days))]


def ranked_lists(
    loaded: LoadedRelease, name: str, n: int, days: FirstDays, vectors_BD: np.ndarray, segment_B: np.ndarray
) -> list[list[int]]:
    """Return the first n track_idx of a method for each listener, or as many as the method has."""
    ranked: list[list[int]]
    if name == "semi_pers":  # as the method of this name; the segments are already known
        ranked = loaded.space.rankings_KL[segment_B, :n].tolist()
    elif name == POPULAR:
        ranked = [list(range(min(n, len(loaded.tracks))))] * len(vectors_BD)
    elif name == COUNTRY_AGE:
        assert loaded.space.country_age is not None
        ranked = loaded.space.country_age.recommend(vectors_BD, min(n, len(loaded.tracks)), days).tolist()
    else:
        ranked = loaded.space.methods[name].recommend(vectors_BD, min(n, len(loaded.tracks)), days).tolist()
    return ranked


def ranking_of_release(method: str, segment: int) -> int | str | None:
    """Return the name of the ranking that a method recommends if it is the same for other listeners, else None."""
    if method == "semi_pers":
        return segment
    return method if method == POPULAR else None


def longer_list(
    loaded: LoadedRelease,
    method: str,
    days: FirstDays,
    placed: Placement,
    segment_B: np.ndarray,
    b: int,
    known: list[int],
    n_known: int,
    n: int,
) -> list[int]:
    """Return the first n track_idx of a method for listener b; `known`: the first `n_known` or all."""
    if len(known) >= n or len(known) < n_known:
        return known
    vectors_1D, segment_1, days_1 = placed.vectors_BD[b : b + 1], segment_B[b : b + 1], days.rows(b, b + 1)
    return ranked_lists(loaded, method, n, days_1, vectors_1D, segment_1)[0]


def excluded_tracks(
    loaded: LoadedRelease, listener: FirstDaySignals, options: ListParameters, rules: ListRules
) -> set[int]:
    """Return the track_idx that must be in no list: banned or excluded, or heard where heard tracks are left out."""
    place, lists = loaded.track_idx, listener.lists
    filters = options.filters
    return loaded.facts.excluded(
        rules,
        tracks=[place[i] for i in (*options.exclude, *lists["bans.tracks"]) if i in place],
        artists=(*lists.get("bans.artists", ()), *filters.artists),
        albums=(*lists.get("bans.albums", ()), *filters.albums),
        heard=() if rules.heard == "keep" else [place[i] for i in lists["streams.tracks"] if i in place],
    )


def often_shown(
    loaded: LoadedRelease, listener: FirstDaySignals, options: ListParameters, rules: ListRules
) -> frozenset[int]:
    """Return the track_idx that were shown `rules.max_shown` times or more and are not among the listener's streams."""
    if not options.shown or rules.max_shown is None:
        return frozenset()
    played = set(listener.lists["streams.tracks"])
    often = (i for i, n in Counter(options.shown).items() if n >= rules.max_shown and i not in played)
    return frozenset(loaded.track_idx[i] for i in often if i in loaded.track_idx)


def next_cursor(loaded: LoadedRelease, depth: int, short: str | None) -> str | None:
    """Return the cursor of the tracks after the first `depth`, or None if there are none."""
    if short is not None or depth >= min(MAX_DEPTH, len(loaded.tracks)):
        return None
    return cursor(loaded, depth)


def distances(loaded: LoadedRelease, vectors_BD: np.ndarray, segment_B: np.ndarray) -> list[float]:
    """Return the distance from each of B vectors, at unit length, to the centroid of its segment."""
    gap_BD = normalise(vectors_BD) - loaded.space.centroids_KD[segment_B]
    distance_B: list[float] = np.sqrt(np.vecdot(gap_BD, gap_BD)).tolist()
    return distance_B


def segment_body(loaded: LoadedRelease, segment: int, distance: float) -> SegmentBody:
    """Return a segment as schema.Segment. Its exact size is not part of it."""
    return {"segment_id": segment, "distance": round(distance, 6), "card": loaded.space.cards[segment]}


def with_track_details(loaded: LoadedRelease, body: RecommendationBody | KnownRecommendationBody) -> dict[str, Any]:
    """Return a response body with its tracks as schema.Track, already in JSON."""
    return {**body, "tracks": [loaded.track_json[i] for i in body["tracks"]]}


def list_explanation(loaded: LoadedRelease, method: str, segment: int | None) -> str:
    """Return the explanation of a list, in one sentence."""
    if method == POPULAR or segment is None:
        return "The tracks that most listeners play"
    if method == COUNTRY_AGE:
        return "The tracks that most listeners of your country and age play"
    card = str(loaded.space.segments[segment]["card"].get("sentence") or f"segment {segment}")
    near = "nearest to you" if method == "semi_pers" else "nearest to you, while the list is computed for you alone"
    return f"{card} ({near})"
