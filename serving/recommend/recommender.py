"""Lists for new listeners, and why: one release in, one answer out.

Shapes   B listeners, F values of an input vector, d width of the space
Order    in which an answer degrades, and says so: the network (for the blend: its own, then the space's) -> the mean
         of the warm listeners of the same country and age class -> the most popular tracks
Lists    are made by the methods of models/methods/ over the listener's vector: the code that the gate judged
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
    """Where B listeners stand: vectors (B, d), what each came from, and why not from the network."""

    vectors_BD: np.ndarray
    origin: list[str]
    why: str | None

    def degraded(self, b: int) -> dict[str, str] | None:
        """What stands in for the network, or None; where the means were asked for, only nothing at all is less."""
        if self.origin[b] == NETWORK or (self.why is None and self.origin[b] == MEAN):
            return None
        to = MEAN if self.origin[b] == MEAN else POPULAR
        why = "neither country nor age is known" if self.why is None else f"the network does not answer: {self.why}"
        return {"fallback": to, "reason": why}


def place(ready: Ready, days: FirstDays) -> Placed:
    """Vectors of B listeners by the network; where it fails, the means of their country and age class."""
    try:
        return Placed(ready.space.vectors(ready.inputs(days)), [NETWORK] * len(days), None)
    except Exception as error:  # whatever onnxruntime throws: an answer is better than none
        return place_by_means(ready, days, first_line(error))


def place_by_means(ready: Ready, days: FirstDays, why: str | None) -> Placed:
    """Vectors of B listeners by the means of their country and age class, of either, or none."""
    means = [mean_of(ready, days.country[b], int(days.age[b])) for b in range(len(days))]
    vectors = np.stack([np.zeros(ready.space.d, np.float32) if mean is None else mean for mean in means])
    return Placed(vectors, [NOTHING if mean is None else MEAN for mean in means], why)


def mean_of(ready: Ready, country: str | None, age: int) -> np.ndarray | None:
    """Mean vector (d,) of the warm listeners of a country and an age class, of either, or None."""
    at, space = age_class(age), ready.space
    both = space.country_ages.get(f"{country}/{AGE_CLASSES[at]}") if at >= 0 else None
    age_mean = space.demographics.age_class[at] if at >= 0 else None
    candidates = (both, space.demographics.country.get(country or ""), age_mean)
    return next((mean for mean in candidates if mean is not None and mean.any()), None)


def first_line(error: Exception) -> str:
    """An error in one line, for people."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def recommend(
    ready: Ready, listeners: Sequence[Listener], asked: ListOptions, explain: bool = False, days: FirstDays | None = None
) -> list[dict[str, Any]]:
    """An answer for each of B listeners, as schema.Recommendation but for "tracks": those are track_idx, see `written`.

    `days` are their first days where somebody made (and counted) them already.

    Raises:
        BadArgument: the release does not hold the method asked for, or fewer tracks than places.
    """
    wanted = ready.configured if asked.method == "configured" else asked.method
    by_means = wanted == MEAN
    if by_means:  # the segment nearest to the mean: what the paper calls its former system
        wanted = "semi_pers"
    if wanted not in ready.space.methods and wanted not in ready.space.problems:
        have = ", ".join(sorted(ready.space.methods))
        raise BadArgument(f"method: release {ready.name[:12]} holds no {wanted}; it has {have}")
    if asked.k > len(ready.tracks):
        raise BadArgument(f"k: {asked.k} places, but the release has {len(ready.tracks)} tracks")
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
    """{top_signals, considered} of schema.Reasons; nulls where nobody asked or no network answers."""
    nothing = {"top_signals": None, "n_signals": None}
    if segment is None or placed.origin[b] != NETWORK:
        return nothing
    try:
        return top_signals(ready, listener, placed.vectors_BD[b], segment)
    except Exception:  # whatever onnxruntime throws: the list stands without it
        return nothing


def make_lists(
    ready: Ready, wanted: str, k: int, days: FirstDays, placed: Placed, segment_B: np.ndarray, taken: Sequence[set[int]]
) -> tuple[list[list[int]], list[str], list[dict[str, str] | None]]:
    """For each listener: track_idx, the method that found them, and what stands in for what was asked.

    A list is long enough to spare the taken tracks where the method has as many.
    """
    n_taken = max((len(one) for one in taken), default=0)
    trouble: dict[str, str] | None = None
    if wanted in ready.space.problems and wanted not in ready.space.methods:
        trouble = {"fallback": "semi_pers", "reason": f"{wanted} does not answer: {ready.space.problems[wanted]}"}
        wanted = "semi_pers"

    def ask(name: str, days: FirstDays, vectors_BD: np.ndarray) -> list[list[int]]:
        if name == "semi_pers":  # as the method of this name; the segments are known already
            ranked: list[list[int]] = ready.space.rankings_KL[segment_B][:, : k + n_taken].tolist()
            return ranked
        n = min(k + n_taken, len(ready.tracks))
        found: list[list[int]] = ready.space.methods[name].recommend(vectors_BD, n, days).tolist()
        return found

    if wanted == "blend":
        try:
            return ask("blend", days, placed.vectors_BD), ["blend"] * len(days), [None] * len(days)
        except Exception as error:  # whatever onnxruntime throws
            trouble, wanted = {"fallback": "semi_pers", "reason": f"blend does not answer: {first_line(error)}"}, "semi_pers"
    if wanted == POPULAR:
        return ask(POPULAR, days, placed.vectors_BD), [POPULAR] * len(days), [None] * len(days)
    if wanted not in ready.space.methods:  # damaged beyond the network: popularity needs no file
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
    """track_idx that must be in no list: asked for, banned, and first-day streams where those are left out."""
    ids = [*leave_out, *listener.bans.tracks, *(listener.streams.tracks if streamed else ())]
    return {ready.track_at[i] for i in ids if i in ready.track_at}


def filled_up(found: Sequence[int], taken: set[int], k: int, n_tracks: int) -> tuple[list[int], int]:
    """The first k of a list that are not taken; then the most popular others; how many those are."""
    chosen = [i for i in found if i not in taken][:k]
    short = k - len(chosen)
    if short:
        have = taken.union(chosen)
        chosen += [i for i in range(min(n_tracks, len(have) + short)) if i not in have][:short]
    return chosen, min(short, max(0, len(chosen) - (k - short)))


def distances(ready: Ready, vectors_BD: np.ndarray, segment_B: np.ndarray) -> list[float]:
    """From each of B vectors, at unit length, to the centroid of its segment."""
    gap_BD = normalise(vectors_BD) - ready.space.centroids_KD[segment_B]
    found: list[float] = np.sqrt(np.vecdot(gap_BD, gap_BD)).tolist()
    return found


def segment_said(ready: Ready, segment: int, distance: float) -> dict[str, Any]:
    """A segment for people: never its exact size, which the card tells where it may."""
    return {"segment_id": segment, "distance": round(distance, 6), "card": ready.space.cards[segment]}


def written(ready: Ready, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with its tracks as schema.Track, in JSON already."""
    return {**answer, "tracks": [ready.shown[i] for i in answer["tracks"]]}


def says(ready: Ready, method: str, segment: int | None) -> str:
    """Why this list, in one sentence."""
    if method == POPULAR or segment is None:
        return "What most listeners play: the most popular tracks"
    card = str(ready.space.segments[segment]["card"].get("sentence") or f"segment {segment}")
    near = "nearest to you" if method == "semi_pers" else "nearest to you, while the list is made for you alone"
    return f"{card} ({near})"
