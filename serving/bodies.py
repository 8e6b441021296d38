"""Types of the response bodies, as the code builds them.

serving/schema.py describes the same bodies for the OpenAPI page. Bodies are plain dicts, because building pydantic
models would cost more than computing a list. Parts of type `EncodedJson` are encoded in advance and inserted unchanged.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypeAlias, TypedDict

import orjson

EncodedJson: TypeAlias = orjson.Fragment


class SegmentBody(TypedDict):
    """schema.Segment."""

    segment_id: int
    distance: float
    card: EncodedJson


class SignalBody(TypedDict):
    """schema.SignalContribution."""

    signal: str
    id: str
    name: str | None
    contribution: float


class SignalsBody(TypedDict):
    """The two fields of schema.Reasons that `explain` requests; null if they were not requested."""

    top_signals: list[SignalBody] | None
    n_signals: int | None


class ReasonsBody(SignalsBody):
    """schema.Reasons."""

    text: str


class DegradedBody(TypedDict):
    """schema.Degraded."""

    fallback: str
    reason: str


class ExperimentBody(TypedDict):
    """schema.ExperimentAssignment."""

    experiment: str
    arm: str
    request_id: str


class RecommendationBody(TypedDict):
    """schema.Recommendation, whose tracks are track_idx until the response is encoded."""

    release: str
    week: str
    space: str
    method: str
    vector_source: str
    degraded: DegradedBody | None
    tracks: list[int]
    n_filled: int
    relaxed: int
    short: str | None
    cursor: str | None
    segment: SegmentBody | None
    reasons: ReasonsBody
    unknown: dict[str, list[str]]
    experiment: NotRequired[ExperimentBody]


class KnownUserBody(TypedDict):
    """known_users.KnownUser."""

    release: str
    week: str
    space: str
    user_id: str
    kind: str
    since: str
    vector: list[float]
    segment: SegmentBody


class KnownRecommendationBody(TypedDict):
    """known_users.KnownRecommendation, whose tracks are track_idx until the response is encoded."""

    release: str
    week: str
    space: str
    user_id: str
    method: str
    kind: str | None
    since: str | None
    vector_source: str
    degraded: DegradedBody | None
    tracks: list[int]
    n_computed: int
    relaxed: int
    short: str | None
    segment: SegmentBody | None
    reasons: ReasonsBody
    n_events: int
    unknown: dict[str, list[str]]
    experiment: NotRequired[ExperimentBody]


class CarouselPlaylistBody(TypedDict):
    """schema.CarouselPlaylist."""

    position: int
    playlist_id: str
    relevance: float
    exposure: float
    nearest_tracks: list[EncodedJson]


class CarouselBody(TypedDict):
    """schema.Carousel."""

    release: str
    week: str
    space: str
    vector_source: str
    degraded: DegradedBody | None
    playlists: list[CarouselPlaylistBody]
    exposure_model: str
    expected_relevance: float
    similarity: float
    unknown: dict[str, list[str]]


class EntityBody(TypedDict):
    """schema.Entity."""

    release: str
    space: str
    kind: str
    id: str
    name: str | None
    vector: list[float]
    card: dict[str, Any] | None
    tracks: list[EncodedJson]


class NeighbourBody(TypedDict):
    """schema.Neighbour."""

    id: str
    name: str | None
    cosine: float


class NeighbourhoodBody(TypedDict):
    """schema.Neighbourhood."""

    release: str
    space: str
    kind: str
    id: str
    of: str
    neighbours: list[NeighbourBody]


class SearchResultBody(TypedDict):
    """schema.SearchResult."""

    id: str
    name: str | None
    artist: str | None
    genre: str | None


class SearchBody(TypedDict):
    """schema.Search."""

    release: str
    kind: str
    results: list[SearchResultBody]


class ReleaseInfoBody(TypedDict):
    """schema.ReleaseInfo."""

    release: str
    week: str
    space: str
    method: str
    methods: list[str]
    spaces: dict[str, dict[str, int]]
    countries: list[str]
    ids: dict[str, str]
    problems: dict[str, str]


class StoreState(TypedDict):
    """The store of known listeners in /readyz."""

    kind: str
    answers: bool
    problem: str | None
    parts: dict[str, int]


class SkipState(TypedDict):
    """The skip engine in /readyz; `age_s` is the time since the last play of its release."""

    ready: bool
    problem: str | None
    release: str | None
    week: str | None
    state_as_of: str | None
    age_s: int | None


class RecentPlaysBody(TypedDict):
    """skip.schema.RecentPlaysReport."""

    used: int
    already_known: int
    unknown_tracks: int


class SkipReleaseFields(TypedDict):
    """The fields of both skip bodies that describe the release and whether it contains the listener."""

    release: str
    week: str
    user_id: str
    known_user: bool
    state_as_of: str


class SkipPredictionBody(TypedDict):
    """skip.schema.SkipPrediction."""

    track_id: str
    skip_probability: float
    reason: str | None


class SkipsBody(TypedDict):
    """skip.schema.Skips."""

    release: str
    week: str
    user_id: str
    known_user: bool
    state_as_of: str
    tracks: list[SkipPredictionBody]
    unknown: list[str]
    recent: RecentPlaysBody


class RerankedTrackBody(TypedDict):
    """skip.schema.RerankedTrack."""

    track_id: str
    skip_probability: float | None


class RerankedBody(TypedDict):
    """skip.schema.Reranked."""

    release: str | None
    week: str | None
    user_id: str
    known_user: bool
    state_as_of: str | None
    tracks: list[RerankedTrackBody]
    unknown: list[str]
    blocked: list[str]
    recent: RecentPlaysBody
    degraded: DegradedBody | None
