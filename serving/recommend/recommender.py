"""Lists for new listeners, with explanations, from one release.

Shapes     B listeners, F values of an input vector, d width of the space
Fallback   the network (for the blend: its own, then the space's) -> the mean vector of the warm listeners of the same
           country and age class -> the most popular tracks; the response names it
Lists      are made by the methods of models/cold_start/methods over the listener's vector: the code that the gate
evaluated
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.errors import BadArgument
from models.cold_start.input_vector import AGE_CLASSES, FirstDays, age_class
from models.cold_start.top_k import normalise
from serving.block.tracks import blocked_tracks
from serving.bodies import DegradedBody, KnownRecommendationBody, RecommendationBody, SegmentBody, SignalsBody
from serving.recommend.reasons import top_signals
from serving.recommend.signals import FirstDaySignals, ListParameters, days_of
from serving.release.loaded import LoadedRelease

NETWORK, MEAN, NOTHING = "network", "country_age_mean", "nothing"
POPULAR = "popularity"


@dataclass(frozen=True)
class Placement:
    """Vectors (B, d) of B listeners, the source of each, and why the network was not used."""

    vectors_BD: np.ndarray
    origin: list[str]
    why: str | None

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
        return Placement(loaded.space.vectors(loaded.inputs(days)), [NETWORK] * len(days), None)
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
    streamed = loaded.leave_out_first_day if options.leave_out_first_day is None else options.leave_out_first_day
    taken = [
        excluded_tracks(loaded, listener, options.exclude, streamed)
        | blocked_tracks(loaded, options.block_list, listener.country)
        for listener in listeners
    ]
    lists, methods, degraded = make_lists(loaded, wanted, options.k, days, placed, segment_B, taken)
    bodies: list[RecommendationBody] = []
    for b, listener in enumerate(listeners):
        chosen, filled = fill_list(lists[b], taken[b], options.k, len(loaded.tracks))
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
                "n_filled": filled,
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


def make_lists(
    loaded: LoadedRelease,
    wanted: str,
    k: int,
    days: FirstDays,
    placed: Placement,
    segment_B: np.ndarray,
    taken: Sequence[set[int]],
) -> tuple[list[list[int]], list[str], list[DegradedBody | None]]:
    """Return for each listener the track_idx, the method that was used, and the fallback if one was needed.

    A list is long enough to remove the excluded tracks from it where the method has as many.
    """
    n_taken = max((len(one) for one in taken), default=0)
    degraded: DegradedBody | None = None
    if wanted in loaded.space.problems and wanted not in loaded.space.methods:
        degraded = {"fallback": "semi_pers", "reason": f"{wanted} is unavailable: {loaded.space.problems[wanted]}"}
        wanted = "semi_pers"

    def ranked_lists(name: str, days: FirstDays, vectors_BD: np.ndarray) -> list[list[int]]:
        if name == "semi_pers":  # as the method of this name; the segments are already known
            ranked: list[list[int]] = loaded.space.rankings_KL[segment_B][:, : k + n_taken].tolist()
            return ranked
        n = min(k + n_taken, len(loaded.tracks))
        lists: list[list[int]] = loaded.space.methods[name].recommend(vectors_BD, n, days).tolist()
        return lists

    if wanted == "blend":
        try:
            return ranked_lists("blend", days, placed.vectors_BD), ["blend"] * len(days), [None] * len(days)
        except Exception as error:  # whatever onnxruntime raises
            degraded, wanted = {"fallback": "semi_pers", "reason": f"blend failed: {first_line(error)}"}, "semi_pers"
    if wanted == POPULAR:
        return ranked_lists(POPULAR, days, placed.vectors_BD), [POPULAR] * len(days), [None] * len(days)
    if wanted not in loaded.space.methods:  # popularity needs no file of the release
        degraded = {"fallback": POPULAR, "reason": loaded.space.problems.get(wanted, "not in this release")}
        return ranked_lists(POPULAR, days, placed.vectors_BD), [POPULAR] * len(days), [degraded] * len(days)
    lists = ranked_lists(wanted, days, placed.vectors_BD)
    methods = [wanted] * len(days)
    for b, origin in enumerate(placed.origin):
        if origin == NOTHING:
            lists[b] = ranked_lists(POPULAR, days.rows(b, b + 1), placed.vectors_BD[b : b + 1])[0]
            methods[b] = POPULAR
    return lists, methods, [placed.degraded(b) or degraded for b in range(len(days))]


def excluded_tracks(
    loaded: LoadedRelease, listener: FirstDaySignals, leave_out: Sequence[int], streamed: bool
) -> set[int]:
    """Return the track_idx that must be in no list: excluded, banned, and first-day streams if those are excluded."""
    ids = [*leave_out, *listener.lists["bans.tracks"], *(listener.lists["streams.tracks"] if streamed else ())]
    return {loaded.track_idx[i] for i in ids if i in loaded.track_idx}


def fill_list(ranked: Sequence[int], excluded: set[int], k: int, n_tracks: int) -> tuple[list[int], int]:
    """Return k tracks: those of the list that are not excluded, then popular ones; and the number of those."""
    chosen = [i for i in ranked if i not in excluded][:k]
    n_missing = k - len(chosen)
    if n_missing:
        unavailable = excluded.union(chosen)
        chosen += [i for i in range(min(n_tracks, len(unavailable) + n_missing)) if i not in unavailable][:n_missing]
    return chosen, min(n_missing, max(0, len(chosen) - (k - n_missing)))


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
    card = str(loaded.space.segments[segment]["card"].get("sentence") or f"segment {segment}")
    near = "nearest to you" if method == "semi_pers" else "nearest to you, while the list is computed for you alone"
    return f"{card} ({near})"
