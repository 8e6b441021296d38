"""Listeners whom the store knows: their vector, and the list that was kept for them.

Order   in which a list degrades, and says so: the kept list, longer ones computed from the kept vector -> the most
        popular tracks. A vector has nothing to stand in for it: without the store it is a 503 with the reason
Mixed   never: rows are read under the release that answers the request, to which their tracks and segments belong. A
        release is promoted before its listeners are published: in between the one before answers for them, whole

The store is asked in a thread, with a short timeout, through a circuit: the loop that answers others does not wait.
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
    Query(max_length=MAX_EXCLUDED, description="tracks that must not be in the list; repeat for several"),
]
WRONG: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorResponse, "description": why}
    for status, why in {
        401: "no or another API key",
        404: "nobody knows this user",
        422: "refused, with the field's name",
        503: "no release; for a vector, no store",
    }.items()
}


class KnownUser(Body):
    """What is known of a listener."""

    release: str
    week: str
    space: str
    user_id: int
    kind: str = Field(
        description="warm: the release learned from this listener; cold: placed on the day of registration"
    )
    since: str = Field(description="of a warm listener the week of the vector, of a cold one the day of registration")
    vector: list[float]
    segment: Segment


class KnownRecommendation(Body):
    """The list that was kept for a listener."""

    release: str
    week: str
    space: str
    user_id: int
    method: str = Field(description="stored, or popularity where the store did not answer")
    kind: str | None
    since: str | None
    vector_source: str = Field(description="store, or nothing")
    degraded: Degraded | None
    tracks: list[Track]
    computed: int = Field(description="tracks at the end that are not in the kept list: nearest to the kept vector")
    segment: Segment | None
    reasons: Reasons


def make_router(
    champion: Champion,
    serving: Callable[[Champion], Ready],
    say: Callable[..., Response],
    circuit: Circuit,
    metrics: Metrics,
) -> APIRouter:
    """The two routes; `serving` gives the release in service, `say(data, release=...)` an answer in JSON."""
    router = APIRouter(tags=["users"])

    def asked(ready: Ready, user_id: int) -> tuple[Ready, UserRow]:
        """The release that answers for this listener, and its row."""
        try:
            row = known(ready, circuit, metrics, user_id)
        except NotPublished:
            before = ready.before
            if before is None:
                raise
            return before, known(before, circuit, metrics, user_id)
        ready.before = None  # this one's listeners are there: the one before is needed no more
        return ready, row

    @router.get("/v1/users/{user_id}", responses={200: {"model": KnownUser}, **WRONG})
    def user(user_id: UserId) -> Response:
        """Vector and segment of a listener whom the store knows."""
        try:
            ready, row = asked(serving(champion), user_id)
        except NotFound:
            raise
        except OvertureError as error:
            raise HTTPException(503, f"the store gives no vectors: {error}") from None
        return say(about(ready, row), release=ready.name)

    @router.get("/v1/users/{user_id}/recommendations", responses={200: {"model": KnownRecommendation}, **WRONG})
    def recommendations(
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=schema.MAX_K)] = 50,
        exclude: Excluded = [],  # noqa: B006 - FastAPI copies it
    ) -> Response:
        """Tracks for a listener whom the store knows."""
        ready = serving(champion)
        if k > len(ready.tracks):
            raise BadArgument(f"k: {k} places, but the release has {len(ready.tracks)} tracks")
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
    """Their track_idx; ids that the release does not know are in no list anyway."""
    return {ready.track_at[track] for track in track_ids if track in ready.track_at}


def known(ready: Ready, circuit: Circuit, metrics: Metrics, user_id: int) -> UserRow:
    """The store's row of a listener, held to the release.

    Raises:
        NotFound: the store knows others of this release, not this user.
        StoreAway, NotPublished, CheckFailed: it does not answer, knows nobody, or answers nonsense.
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
            f"nobody knows this user: not among those whom release {ready.name[:12]} learned from, nor among the "
            "newcomers placed since; POST /v1/recommendations answers from what is known of a first day"
        )
    return row


def hold(ready: Ready, row: UserRow) -> None:
    """CheckFailed where a row cannot be of this release."""
    if row.vector_D.shape != (ready.space.d,) or not 0 <= row.segment_id < len(ready.space.centroids_KD):
        raise CheckFailed("a row has another width or segment than the release; publish the release again")
    if not np.isfinite(row.vector_D).all() or any(int(t) not in ready.track_at for t in row.track_ids if t >= 0):
        raise CheckFailed("a row holds no numbers, or tracks of another release; publish the release again")


def about(ready: Ready, row: UserRow) -> dict[str, Any]:
    """An answer as KnownUser."""
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
    """The segment of a row."""
    (distance,) = distances(ready, row.vector_D[None], np.array([row.segment_id]))
    return segment_said(ready, row.segment_id, distance)


def recommend(ready: Ready, row: UserRow, k: int, taken: set[int]) -> dict[str, Any]:
    """An answer as KnownRecommendation, tracks as track_idx: the kept list, then what else is nearest to the vector."""
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
    """An answer as KnownRecommendation, of the most popular tracks, as track_idx."""
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
