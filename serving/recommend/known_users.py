"""Known listeners: their vector and their stored list.

Fallback   stored list; longer ones continue with the tracks nearest to the stored vector -> the most popular tracks. A
           vector has no fallback: without the store it is a 503 with the reason
Releases   rows are read under the release that answers the request, so that tracks and segments match. A release is
           promoted before its listeners are published; until then the previous release answers for them

The store is read in a thread, with a short timeout, through a circuit breaker: the event loop does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import Response
from pydantic import Field

from contracts.errors import BadArgument, CheckFailed, NotFound, OvertureError
from serving import schema
from serving.http.prometheus import Metrics
from serving.recommend.recommender import POPULAR, distances, filled_up, says, segment_said, written
from serving.release.loaded import Ready
from serving.release.watcher import Champion
from serving.schema import Body, Degraded, Reasons, Segment, Track
from serving.stores.circuit import Circuit
from serving.stores.interface import NotPublished, UserRow

MAX_EXCLUDED = 200
STORED = "stored"
UserId = Annotated[int, Path(ge=0, le=2**63 - 1, examples=[1])]
Excluded = Annotated[
    list[Annotated[int, Field(ge=0, le=2**63 - 1)]],
    Query(max_length=MAX_EXCLUDED, description="track that must not be in the list; can be repeated"),
]
WRONG: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorResponse, "description": why}
    for status, why in {
        401: "missing or wrong API key",
        404: "unknown user",
        422: "invalid request; the body names the field",
        503: "no release; for a vector also: no store",
    }.items()
}


class KnownUser(Body):
    """A known listener: vector and segment."""

    release: str
    week: str
    space: str
    user_id: int
    kind: str = Field(
        description="warm: the release was trained with this listener; cold: placed after the registration day"
    )
    since: str = Field(description="warm: week of the vector; cold: registration day")
    vector: list[float]
    segment: Segment


class KnownRecommendation(Body):
    """The stored list of a known listener."""

    release: str
    week: str
    space: str
    user_id: int
    method: str = Field(description="stored, or popularity if the store is unavailable")
    kind: str | None
    since: str | None
    vector_source: str = Field(description="store, or nothing")
    degraded: Degraded | None
    tracks: list[Track]
    n_computed: int = Field(
        description="number of tracks at the end that are not in the stored list: the nearest to the stored vector"
    )
    segment: Segment | None
    reasons: Reasons


def make_router(
    champion: Champion,
    serving: Callable[[Champion], Ready],
    say: Callable[..., Response],
    circuit: Circuit,
    metrics: Metrics,
) -> APIRouter:
    """Return the routes of known listeners.

    Args:
        champion: the watcher of the champion.
        serving: returns the release in service.
        say: builds a JSON response from data and a release.
        circuit: the store behind its circuit breaker.
        metrics: where store reads and fallbacks are counted.
    """
    router = APIRouter(tags=["users"])

    def asked(ready: Ready, user_id: int) -> tuple[Ready, UserRow]:
        """Return the release that answers for this listener, and the listener's row."""
        try:
            row = known(ready, circuit, metrics, user_id)
        except NotPublished:
            before = ready.before
            if before is None:
                raise
            return before, known(before, circuit, metrics, user_id)
        ready.before = None  # this release's listeners are published: the previous one is no longer needed
        return ready, row

    @router.get("/v1/users/{user_id}", responses={200: {"model": KnownUser}, **WRONG})
    def user(user_id: UserId) -> Response:
        """Return vector and segment of a known listener."""
        try:
            ready, row = asked(serving(champion), user_id)
        except NotFound:
            raise
        except OvertureError as error:
            raise HTTPException(503, f"the store is unavailable: {error}") from None
        return say(about(ready, row), release=ready.name)

    @router.get("/v1/users/{user_id}/recommendations", responses={200: {"model": KnownRecommendation}, **WRONG})
    def recommendations(
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=schema.MAX_K)] = 50,
        exclude: Excluded = [],  # noqa: B006 - FastAPI copies it
    ) -> Response:
        """Recommend tracks to a known listener."""
        ready = serving(champion)
        if k > len(ready.tracks):
            raise BadArgument(f"k: {k} is more than the {len(ready.tracks)} tracks of the release")
        try:
            ready, row = asked(ready, user_id)
            found = recommend(ready, row, min(k, len(ready.tracks)), left_out(ready, exclude))
        except NotFound:
            raise
        except OvertureError as error:
            found = stand_in(ready, user_id, k, left_out(ready, exclude), str(error))
        metrics.answered([{**found, "unknown": {}}])
        return say(written(ready, found), release=ready.name)

    return router


def left_out(ready: Ready, track_ids: list[int]) -> set[int]:
    """Return the track_idx of these track ids; ids that the release does not contain are ignored."""
    return {ready.track_at[track] for track in track_ids if track in ready.track_at}


def known(ready: Ready, circuit: Circuit, metrics: Metrics, user_id: int) -> UserRow:
    """Return the store's row of a listener, validated against the release.

    Raises:
        NotFound: the store has rows of this release, but none of this user.
        StoreAway: the store is unavailable.
        NotPublished: the store has no row of this release.
        CheckFailed: the row is invalid.
    """
    try:
        row = circuit.find(ready.name, ready.space_name, user_id)
        if row is not None:
            hold(ready, row)
    except NotPublished:
        metrics.store("unpublished")
        raise
    except OvertureError:
        metrics.store("unavailable")
        raise
    metrics.store("found" if row else "unknown")
    if row is None:
        raise NotFound(
            f"unknown user: neither in the training data of release {ready.name[:12]} nor among the new "
            "listeners placed since; POST /v1/recommendations recommends from first-day signals"
        )
    return row


def hold(ready: Ready, row: UserRow) -> None:
    """Raise CheckFailed if a row does not belong to the release."""
    if row.vector_D.shape != (ready.space.d,) or not 0 <= row.segment_id < len(ready.space.centroids_KD):
        raise CheckFailed("a row has another width or segment than the release; publish the release again")
    if not np.isfinite(row.vector_D).all() or any(int(t) not in ready.track_at for t in row.track_ids if t >= 0):
        raise CheckFailed("a row contains invalid numbers, or tracks of another release; publish the release again")


def about(ready: Ready, row: UserRow) -> dict[str, Any]:
    """Return the response body of a known listener (KnownUser)."""
    return {
        "release": ready.name,
        "week": ready.week,
        "space": ready.space_name,
        "user_id": row.user_id,
        "kind": row.kind,
        "since": row.since,
        "vector": [float(value) for value in row.vector_D],
        "segment": nearest(ready, row),
    }


def nearest(ready: Ready, row: UserRow) -> dict[str, Any]:
    """Return the segment of a row as schema.Segment."""
    (distance,) = distances(ready, row.vector_D[None], np.array([row.segment_id]))
    return segment_said(ready, row.segment_id, distance)


def recommend(ready: Ready, row: UserRow, k: int, taken: set[int]) -> dict[str, Any]:
    """Return a KnownRecommendation with track_idx: the stored list, then the tracks nearest to the vector."""
    kept = [ready.track_at[int(track)] for track in row.track_ids if track >= 0]
    chosen = [i for i in kept if i not in taken][:k]
    short = k - len(chosen)
    if short:
        unwanted = taken.union(kept)
        n = min(len(ready.tracks), len(unwanted) + short)
        others = ready.space.methods["full_pers"].recommend(row.vector_D[None], n)[0].tolist()
        chosen += [i for i in others if i not in unwanted][:short]
    return {
        "release": ready.name,
        "week": ready.week,
        "space": ready.space_name,
        "user_id": row.user_id,
        "method": STORED,
        "kind": row.kind,
        "since": row.since,
        "vector_source": "store",
        "degraded": None,
        "tracks": chosen,
        "n_computed": max(0, len(chosen) - (k - short)),
        "segment": nearest(ready, row),
        "reasons": {"text": says(ready, "full_pers", row.segment_id), "top_signals": None, "n_signals": None},
    }


def stand_in(ready: Ready, user_id: int, k: int, taken: set[int], why: str) -> dict[str, Any]:
    """Return the body of a recommendation (KnownRecommendation) with the most popular tracks, as track_idx."""
    chosen, _ = filled_up([], taken, k, len(ready.tracks))
    return {
        "release": ready.name,
        "week": ready.week,
        "space": ready.space_name,
        "user_id": user_id,
        "method": POPULAR,
        "kind": None,
        "since": None,
        "vector_source": "nothing",
        "degraded": {"fallback": POPULAR, "reason": why},
        "tracks": chosen,
        "n_computed": 0,
        "segment": None,
        "reasons": {"text": says(ready, POPULAR, None), "top_signals": None, "n_signals": None},
    }
