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
from serving.recommend.reasons import top_signals
from serving.recommend.signals import days_of, unknown
from serving.release.loaded import Ready
from serving.schema import Listener, ListOptions

NETWORK, MEAN, NOTHING = "network", "country_age_mean", "nothing"
POPULAR = "popularity"


@dataclass(frozen=True)
class Placed:
    """Vectors (B, d) of B listeners, the source of each, and why the network was not used."""

    vectors_BD: np.ndarray
    origin: list[str]
    why: str | None

    def degraded(self, b: int) -> dict[str, str] | None:
        """Return the fallback that was used instead of the network, or None.

        Where means were requested, only the popularity fallback counts.
        """
        if self.origin[b] == NETWORK or (self.why is None and self.origin[b] == MEAN):
            return None
        to = MEAN if self.origin[b] == MEAN else POPULAR
        why = "neither country nor age is known" if self.why is None else f"the network failed: {self.why}"
        return {"fallback": to, "reason": why}


def place(ready: Ready, days: FirstDays) -> Placed:
    """Return the vectors of B listeners from the network, or from the means of country and age class if it fails."""
    try:
        return Placed(ready.space.vectors(ready.inputs(days)), [NETWORK] * len(days), None)
    except Exception as error:  # whatever onnxruntime raises: a fallback is better than an error
        return place_by_means(ready, days, first_line(error))


def place_by_means(ready: Ready, days: FirstDays, why: str | None) -> Placed:
    """Return the vectors of B listeners as the means of their country and age class, of one of them, or none."""
    means = [mean_of(ready, days.country[b], int(days.age[b])) for b in range(len(days))]
    vectors = np.stack([np.zeros(ready.space.d, np.float32) if mean is None else mean for mean in means])
    return Placed(vectors, [NOTHING if mean is None else MEAN for mean in means], why)


def mean_of(ready: Ready, country: str | None, age: int) -> np.ndarray | None:
    """Return the mean vector (d,) of the warm listeners of a country and age class, of one of them, or None."""
    at, space = age_class(age), ready.space
    both = space.country_ages.get(f"{country}/{AGE_CLASSES[at]}") if at >= 0 else None
    age_mean = space.demographics.age_class[at] if at >= 0 else None
    candidates = (both, space.demographics.country.get(country or ""), age_mean)
    return next((mean for mean in candidates if mean is not None and mean.any()), None)


def first_line(error: Exception) -> str:
    """Return the first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def recommend(
    ready: Ready,
    listeners: Sequence[Listener],
    asked: ListOptions,
    explain: bool = False,
    days: FirstDays | None = None,
) -> list[dict[str, Any]]:
    """Return a response body for each of B listeners (schema.Recommendation); "tracks" are track_idx, see `written`.

    Args:
        ready: the release.
        listeners: B listeners.
        asked: method, length and exclusions.
        explain: whether to measure the contributions of signals.
        days: first days of the listeners, where they have been computed (and counted) before.

    Raises:
        BadArgument: the release does not contain the requested method, or has fewer than k tracks.
    """
    wanted = ready.configured if asked.method == "configured" else asked.method
    by_means = wanted == MEAN
    if by_means:  # the segment nearest to the mean vector: the former system in the paper
        wanted = "semi_pers"
    if wanted not in ready.space.methods and wanted not in ready.space.problems:
        have = ", ".join(sorted(ready.space.methods))
        raise BadArgument(f"method: release {ready.name[:12]} does not contain {wanted}; it contains {have}")
    if asked.k > len(ready.tracks):
        raise BadArgument(f"k: {asked.k} is more than the {len(ready.tracks)} tracks of the release")
    if days is None:
        days = ready.watch.seen(days_of(ready, listeners))
    placed = place_by_means(ready, days, None) if by_means else place(ready, days)
    segment_B = ready.space.segments_of(placed.vectors_BD)
    distance_B = distances(ready, placed.vectors_BD, segment_B)
    streamed = ready.leave_out_first_day if asked.leave_out_first_day is None else asked.leave_out_first_day
    taken = [taken_tracks(ready, listener, asked.exclude, streamed) for listener in listeners]
    lists, methods, degraded = make_lists(ready, wanted, asked.k, days, placed, segment_B, taken)
    answers = []
    for b, listener in enumerate(listeners):
        chosen, filled = filled_up(lists[b], taken[b], asked.k, len(ready.tracks))
        segment = None if placed.origin[b] == NOTHING else int(segment_B[b])
        answers.append(
            {
                "release": ready.name,
                "week": ready.week,
                "space": ready.space_name,
                "method": methods[b],
                "vector_source": placed.origin[b],
                "degraded": degraded[b],
                "tracks": chosen,
                "n_filled": filled,
                "segment": None if segment is None else segment_said(ready, segment, distance_B[b]),
                "reasons": {
                    "text": says(ready, methods[b], segment),
                    **explained(ready, listener, placed, b, segment if explain else None),
                },
                "unknown": unknown(ready, listener),
            }
        )
    return answers


def explained(ready: Ready, listener: Listener, placed: Placed, b: int, segment: int | None) -> dict[str, Any]:
    """Return `top_signals` and `n_signals` of schema.Reasons; null if not requested or if the network fails."""
    nothing = {"top_signals": None, "n_signals": None}
    if segment is None or placed.origin[b] != NETWORK:
        return nothing
    try:
        return top_signals(ready, listener, placed.vectors_BD[b], segment)
    except Exception:  # whatever onnxruntime raises: the list is valid without it
        return nothing


def make_lists(
    ready: Ready, wanted: str, k: int, days: FirstDays, placed: Placed, segment_B: np.ndarray, taken: Sequence[set[int]]
) -> tuple[list[list[int]], list[str], list[dict[str, str] | None]]:
    """Return for each listener the track_idx, the method that was used, and the fallback if one was needed.

    A list is long enough to remove the excluded tracks from it where the method has as many.
    """
    n_taken = max((len(one) for one in taken), default=0)
    trouble: dict[str, str] | None = None
    if wanted in ready.space.problems and wanted not in ready.space.methods:
        trouble = {"fallback": "semi_pers", "reason": f"{wanted} is unavailable: {ready.space.problems[wanted]}"}
        wanted = "semi_pers"

    def ask(name: str, days: FirstDays, vectors_BD: np.ndarray) -> list[list[int]]:
        if name == "semi_pers":  # as the method of this name; the segments are already known
            ranked: list[list[int]] = ready.space.rankings_KL[segment_B][:, : k + n_taken].tolist()
            return ranked
        n = min(k + n_taken, len(ready.tracks))
        found: list[list[int]] = ready.space.methods[name].recommend(vectors_BD, n, days).tolist()
        return found

    if wanted == "blend":
        try:
            return ask("blend", days, placed.vectors_BD), ["blend"] * len(days), [None] * len(days)
        except Exception as error:  # whatever onnxruntime raises
            trouble, wanted = {"fallback": "semi_pers", "reason": f"blend failed: {first_line(error)}"}, "semi_pers"
    if wanted == POPULAR:
        return ask(POPULAR, days, placed.vectors_BD), [POPULAR] * len(days), [None] * len(days)
    if wanted not in ready.space.methods:  # popularity needs no file of the release
        trouble = {"fallback": POPULAR, "reason": ready.space.problems.get(wanted, "not in this release")}
        return ask(POPULAR, days, placed.vectors_BD), [POPULAR] * len(days), [trouble] * len(days)
    lists = ask(wanted, days, placed.vectors_BD)
    methods = [wanted] * len(days)
    for b, origin in enumerate(placed.origin):
        if origin == NOTHING:
            lists[b] = ask(POPULAR, days.rows(b, b + 1), placed.vectors_BD[b : b + 1])[0]
            methods[b] = POPULAR
    return lists, methods, [placed.degraded(b) or trouble for b in range(len(days))]


def taken_tracks(ready: Ready, listener: Listener, leave_out: Sequence[int], streamed: bool) -> set[int]:
    """Return the track_idx that must be in no list: excluded, banned, and first-day streams if those are excluded."""
    ids = [*leave_out, *listener.bans.tracks, *(listener.streams.tracks if streamed else ())]
    return {ready.track_at[i] for i in ids if i in ready.track_at}


def filled_up(found: Sequence[int], taken: set[int], k: int, n_tracks: int) -> tuple[list[int], int]:
    """Return k tracks: those of the list that are not excluded, then popular ones; and the number of those."""
    chosen = [i for i in found if i not in taken][:k]
    short = k - len(chosen)
    if short:
        have = taken.union(chosen)
        chosen += [i for i in range(min(n_tracks, len(have) + short)) if i not in have][:short]
    return chosen, min(short, max(0, len(chosen) - (k - short)))


def distances(ready: Ready, vectors_BD: np.ndarray, segment_B: np.ndarray) -> list[float]:
    """Return the distance from each of B vectors, at unit length, to the centroid of its segment."""
    gap_BD = normalise(vectors_BD) - ready.space.centroids_KD[segment_B]
    found: list[float] = np.sqrt(np.vecdot(gap_BD, gap_BD)).tolist()
    return found


def segment_said(ready: Ready, segment: int, distance: float) -> dict[str, Any]:
    """Return a segment as schema.Segment. Its exact size is not part of it."""
    return {"segment_id": segment, "distance": round(distance, 6), "card": ready.space.cards[segment]}


def written(ready: Ready, answer: dict[str, Any]) -> dict[str, Any]:
    """Return a response body with its tracks as schema.Track, already in JSON."""
    return {**answer, "tracks": [ready.shown[i] for i in answer["tracks"]]}


def says(ready: Ready, method: str, segment: int | None) -> str:
    """Return the explanation of a list, in one sentence."""
    if method == POPULAR or segment is None:
        return "The tracks that most listeners play"
    card = str(ready.space.segments[segment]["card"].get("sentence") or f"segment {segment}")
    near = "nearest to you" if method == "semi_pers" else "nearest to you, while the list is computed for you alone"
    return f"{card} ({near})"
