"""Listeners by id: the stored vector and list of a known one, the first day of a new one.

New        a listener without a stored row, of whom events of today are remembered, gets the list that
           POST /v1/recommendations returns for the same first day
Fold-in    a known listener who has streamed since the vector was computed gets the tracks nearest to the moved vector
Bans       what the events of today ban is in no list
Fallback   stored list; longer ones continue with the tracks nearest to the stored vector -> the most popular tracks. A
           vector has no fallback: without the store it is a 503 with the reason
Releases   rows are read under the release that answers the request, so that tracks and segments match. A release is
           promoted before its listeners are published; until the warm ones are, the previous release answers for those
           who have no row, also after a restart of the service

The store is read in a thread, with a short timeout, through a circuit breaker: the event loop does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Path
from fastapi.responses import Response
from pydantic import Field

from contracts.errors import BadArgument, CheckFailed, NotFound, OvertureError
from serving import schema
from serving.block.entries import BlockList
from serving.block.watcher import BlockWatcher
from serving.bodies import KnownRecommendationBody, KnownUserBody, SegmentBody
from serving.body_models import Body
from serving.http.problems import Refusal
from serving.http.prometheus import Metrics
from serving.profile.days import Record
from serving.profile.fold_in import folded_vector, streams_since
from serving.profile.profiles import Profiles
from serving.recommend.first_day import Recommend, banned_tracks, recommend_first_day
from serving.recommend.list_query import ListQuery
from serving.recommend.recommender import POPULAR, distances, list_explanation, segment_body, with_track_details
from serving.recommend.ruled_list import audience, build_list
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher
from serving.schema import Degraded, Reasons, Segment, Track
from serving.stores.circuit import CircuitBreaker
from serving.stores.interface import WARM, NotPublished, UserRow

STORED, FOLD_IN, WITHOUT_EVENTS = "stored", "fold_in", "without today's events"
UserId = Annotated[str, Path(min_length=1, max_length=schema.MAX_ID_LENGTH, examples=["1"])]
ERRORS = schema.error_responses(
    {401: None, 404: "unknown user", 422: None, 503: "no release; for a vector also: no store"}
)


class KnownUser(Body):
    """A known listener: vector and segment."""

    release: str
    week: str
    space: str
    user_id: str
    kind: str = Field(
        description="warm: the release was trained with this listener; cold: placed after the registration day"
    )
    since: str = Field(description="warm: week of the vector; cold: registration day")
    vector: list[float]
    segment: Segment


class KnownRecommendation(Body):
    """The stored list of a known listener, or the list for the first day of a new one."""

    release: str
    week: str
    space: str
    user_id: str
    method: str = Field(
        description="stored: a known listener's list; fold_in: the tracks nearest to the stored vector, moved towards "
        "the tracks streamed since it was computed; popularity if the store is unavailable; for a new listener the "
        "method of the release"
    )
    kind: str | None = Field(
        description="warm or cold: a known listener; new: the list was made from the events of the first day"
    )
    since: str | None = Field(description="warm: week of the vector; cold and new: registration day")
    vector_source: str = Field(
        description="store, or store and events; for a new listener network, country_age_mean or nothing"
    )
    degraded: Degraded | None
    tracks: list[Track]
    n_computed: int = Field(
        description="number of tracks that are not in the stored list: those nearest to the vector, or popular ones; "
        "for a new listener popular tracks that fill the list up to k"
    )
    relaxed: int = Field(
        description="how often the limits per artist and album were raised because the catalogue cannot fill the list"
    )
    short: str | None = Field(description="why the list has fewer than k tracks; null if it has k")
    segment: Segment | None
    reasons: Reasons
    n_events: int = Field(
        description="number of remembered events that count: for a new listener those of the first day, else "
        "streams since the vector was computed, and bans"
    )
    unknown: dict[str, list[str]] = Field(
        description="ids of a new listener's events, by signal, and country that the release does not contain"
    )
    experiment: schema.ExperimentAssignment | None = Field(
        None, description="Absent unless an experiment chose the method."
    )


def make_router(
    champion: ChampionWatcher,
    blocks: BlockWatcher,
    serving: Callable[[ChampionWatcher], LoadedRelease],
    respond: Callable[..., Response],
    circuit: CircuitBreaker,
    metrics: Metrics,
    profiles: Profiles,
    recommend_new: Recommend,
) -> APIRouter:
    """Return the routes of listeners by id.

    Args:
        champion: the watcher of the champion.
        blocks: the block list in force.
        serving: returns the release in service.
        respond: builds a JSON response from data and a release.
        circuit: the store behind its circuit breaker.
        metrics: where store reads and fallbacks are counted.
        profiles: the listeners' events of today.
        recommend_new: makes the list of a new listener.
    """
    router = APIRouter(tags=["users"])

    def find_row(loaded: LoadedRelease, external_id: str) -> tuple[LoadedRelease, UserRow]:
        """Return the release that answers for this listener, and the listener's row."""
        user_id = loaded.ids.inside("user", external_id)
        if user_id is None:
            raise unknown_user(loaded)
        try:
            row = require_row(loaded, circuit, metrics, user_id)
        except NotPublished:
            before = loaded.previous
            if before is None:
                champion.open_previous()
                raise
            return before, require_row(before, circuit, metrics, user_id)
        if row.kind == WARM:
            loaded.previous = None  # this release's listeners are published: the previous one is no longer needed
        return loaded, row

    # An id may contain slashes, so this route must be found before the next one.
    @router.get("/v1/users/{user_id:path}/recommendations", responses={200: {"model": KnownRecommendation}, **ERRORS})
    def recommendations(user_id: UserId, query: Annotated[ListQuery, Depends()]) -> Response:
        """Recommend tracks to a known listener, or to a new one whose events of the first day were sent.

        What the listener banned, at any level and also today, is in no list.
        """
        loaded = serving(champion)
        if query.k > len(loaded.tracks):
            raise BadArgument(f"k: {query.k} is more than the {len(loaded.tracks)} tracks of the release")
        today, block_list = profiles.today(user_id), blocks.current

        def of_first_day() -> KnownRecommendationBody | None:
            return recommend_first_day(loaded, recommend_new, user_id, query, block_list, today)

        body: KnownRecommendationBody | None
        try:
            used, row = find_row(loaded, user_id)
            streams = streams_since(used, row, today.events) if profiles.fold_in_weight else []
            body = recommend(used, row, user_id, query, block_list, today.events, streams, profiles.fold_in_weight)
            body["n_events"] = len(streams) + sum(event["kind"] == "ban" for event in today.events)
            if today.problem is not None:
                body["degraded"] = {"fallback": WITHOUT_EVENTS, "reason": today.problem}
            loaded = used
        except NotFound:
            body = of_first_day()
            if body is None and today.problem is not None:
                raise Refusal(
                    503, f"the listener's events are unavailable: {today.problem}", "store_unavailable"
                ) from None
            if body is None:
                raise
        except OvertureError as error:
            body = of_first_day()
            if body is None:
                body = popular_fallback(loaded, user_id, query, block_list, today.events, str(error))
            elif body["degraded"] is None:
                body["degraded"] = {"fallback": body["method"], "reason": str(error)}
        metrics.count_list(body["method"], body)
        return respond(with_track_details(loaded, body), release=loaded.name)

    @router.get("/v1/users/{user_id:path}", responses={200: {"model": KnownUser}, **ERRORS})
    def user(user_id: UserId) -> Response:
        """Return vector and segment of a known listener."""
        try:
            loaded, row = find_row(serving(champion), user_id)
        except NotFound:
            raise
        except OvertureError as error:
            raise Refusal(503, f"the store is unavailable: {error}", "store_unavailable") from None
        return respond(known_user_body(loaded, row, user_id), release=loaded.name)

    return router


def unknown_user(loaded: LoadedRelease) -> NotFound:
    """Return the error for a listener of whom the store has no row."""
    return NotFound(
        f"unknown user: neither in the training data of release {loaded.name[:12]} nor among the new "
        "listeners placed since, and without events of today (POST /v1/events); POST /v1/recommendations recommends "
        "from first-day signals"
    )


def require_row(loaded: LoadedRelease, circuit: CircuitBreaker, metrics: Metrics, user_id: int) -> UserRow:
    """Return the store's row of a listener, validated against the release.

    Raises:
        NotFound: the store has rows of this release, but none of this user.
        StoreUnavailable: the store is unavailable.
        NotPublished: the store has no row of this user, and the release's warm users are not published.
        CheckFailed: the row is invalid.
    """
    try:
        row = circuit.find_user(loaded.name, loaded.space_name, user_id)
        if row is not None:
            check_row(loaded, row)
    except NotPublished:
        metrics.count_store_read("unpublished")
        raise
    except OvertureError:
        metrics.count_store_read("unavailable")
        raise
    metrics.count_store_read("found" if row else "unknown")
    if row is None:
        raise unknown_user(loaded)
    return row


def check_row(loaded: LoadedRelease, row: UserRow) -> None:
    """Raise CheckFailed if a row does not belong to the release."""
    if row.vector_D.shape != (loaded.space.d,) or not 0 <= row.segment_id < len(loaded.space.centroids_KD):
        raise CheckFailed("a row has another width or segment than the release; publish the release again")
    if not np.isfinite(row.vector_D).all() or any(int(t) not in loaded.track_idx for t in row.track_ids if t >= 0):
        raise CheckFailed("a row contains invalid numbers, or tracks of another release; publish the release again")


def known_user_body(loaded: LoadedRelease, row: UserRow, external_id: str) -> KnownUserBody:
    """Return the response body of a known listener (KnownUser)."""
    return {
        "release": loaded.name,
        "week": loaded.week,
        "space": loaded.space_name,
        "user_id": external_id,
        "kind": row.kind,
        "since": row.since,
        "vector": [float(value) for value in row.vector_D],
        "segment": row_segment(loaded, row),
    }


def row_segment(loaded: LoadedRelease, row: UserRow) -> SegmentBody:
    """Return the segment of a row as schema.Segment."""
    (distance,) = distances(loaded, row.vector_D[None], np.array([row.segment_id]))
    return segment_body(loaded, row.segment_id, distance)


def recommend(
    loaded: LoadedRelease,
    row: UserRow,
    external_id: str,
    query: ListQuery,
    block_list: BlockList,
    events: Sequence[Record] = (),
    streams: Sequence[int] = (),
    weight: float = 0.0,
) -> KnownRecommendationBody:
    """Return a KnownRecommendation with track_idx.

    The list is the stored one, continued with the tracks nearest to the stored vector; with streams since the row was
    computed, the tracks nearest to the folded-in vector, without these streams.

    Args:
        loaded: the release of the row.
        row: the listener's row.
        external_id: external id of the listener.
        query: options of the request.
        block_list: the block list in force.
        events: remembered events of the listener; their bans hold.
        streams: track_idx of the streams since the row was computed.
        weight: weight of these streams in the folded-in vector.
    """
    options, history = query.parameters(loaded), row.history
    rules, filters = options.rules or loaded.rules, options.filters
    kept = [loaded.track_idx[int(track)] for track in row.track_ids if track >= 0]
    stored, vector_D = set(kept), row.vector_D
    if streams:
        kept, vector_D = [], folded_vector(vector_D, loaded.space.tracks_ND[list(streams)], weight)

    def ranked(n: int) -> list[int]:
        if n <= len(kept):
            return kept
        n = min(n, len(loaded.tracks))
        nearest = loaded.space.methods["full_pers"].recommend(vector_D[None], n)[0].tolist()
        first = set(kept)
        return [*kept, *(i for i in nearest if i not in first)]

    banned = (*history.banned_tracks.tolist(), *banned_tracks(loaded, events))
    excluded = loaded.facts.excluded(
        rules,
        tracks=(*known_tracks(loaded, (*options.exclude, *banned)), *streams),
        artists=(*filters.artists, *history.banned_artists.tolist()),
        albums=(*filters.albums, *history.banned_albums.tolist()),
        heard=known_tracks(loaded, history.heard_tracks.tolist()) if rules.heard != "keep" else (),
    )
    country, age = query.country or history.country, history.age if query.age is None else query.age
    same = audience(loaded, rules, country, age, filters, block_list)
    one = build_list(loaded, query.k, ranked, rules, excluded, same)
    return {
        "release": loaded.name,
        "week": loaded.week,
        "space": loaded.space_name,
        "user_id": external_id,
        "method": FOLD_IN if streams else STORED,
        "kind": row.kind,
        "since": row.since,
        "vector_source": "store and events" if streams else "store",
        "degraded": None,
        "tracks": one.tracks,
        "n_computed": sum(i not in stored for i in one.tracks),
        "relaxed": one.relaxed,
        "short": one.short,
        "segment": row_segment(loaded, row),
        "reasons": {
            "text": list_explanation(loaded, "full_pers", row.segment_id),
            "top_signals": None,
            "n_signals": None,
        },
        "n_events": 0,
        "unknown": {},
    }


def known_tracks(loaded: LoadedRelease, ids: Iterable[int]) -> list[int]:
    """Return the track_idx of the tracks that the release contains."""
    return [loaded.track_idx[i] for i in ids if i in loaded.track_idx]


def popular_fallback(
    loaded: LoadedRelease, external_id: str, query: ListQuery, block_list: BlockList, events: Sequence[Record], why: str
) -> KnownRecommendationBody:
    """Return the body of a recommendation (KnownRecommendation) with the most popular tracks, as track_idx."""
    options = query.parameters(loaded)
    rules, filters = options.rules or loaded.rules, options.filters
    tracks = known_tracks(loaded, (*options.exclude, *banned_tracks(loaded, events)))
    excluded = loaded.facts.excluded(rules, tracks=tracks, artists=filters.artists, albums=filters.albums)
    same = audience(loaded, rules, query.country, query.age, filters, block_list)
    n_tracks = len(loaded.tracks)
    one = build_list(loaded, query.k, lambda n: list(range(min(n, n_tracks))), rules, excluded, same, ranking=POPULAR)
    return {
        "release": loaded.name,
        "week": loaded.week,
        "space": loaded.space_name,
        "user_id": external_id,
        "method": POPULAR,
        "kind": None,
        "since": None,
        "vector_source": "nothing",
        "degraded": {"fallback": POPULAR, "reason": why},
        "tracks": one.tracks,
        "n_computed": 0,
        "relaxed": one.relaxed,
        "short": one.short,
        "segment": None,
        "reasons": {"text": list_explanation(loaded, POPULAR, None), "top_signals": None, "n_signals": None},
        "n_events": 0,
        "unknown": {},
    }
