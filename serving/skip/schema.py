"""Request and response bodies of the skip routes. Unknown fields are rejected."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from serving.body_models import Body, RequestBody
from serving.schema import Degraded, Id

MAX_TRACKS, MAX_RECENT, LARGEST_CODE = 500, 200, 2**31 - 1

Code = Annotated[int, Field(strict=True, ge=0, le=LARGEST_CODE)]
Timestamp = Annotated[AwareDatetime, Field(description="Time with a time zone.", examples=["2016-12-05T08:30:00Z"])]


class RecentPlay(RequestBody):
    """A play of this session that the release does not contain yet."""

    track_id: Id
    at: Annotated[
        AwareDatetime,
        Field(
            description="Time with a time zone; at most 5 minutes after the time of the prediction, as clocks differ.",
            examples=["2016-12-05T08:20:00Z"],
        ),
    ]
    listened: bool = Field(description="Whether the play lasted more than 30 seconds.")
    is_flow: bool = False
    context_type: Code | None = Field(None, description="Defaults, like the next two, to the value of the request.")
    platform_name: Code | None = None
    platform_family: Code | None = None


class SkipContext(RequestBody):
    """Listener, time and context. Codes are those of the table plays."""

    user_id: Id
    gender: Code | None = None
    age: Annotated[int, Field(strict=True, ge=0, le=150)] | None = Field(None, description="years")
    context_type: Code | None = Field(None, description="Where the track is played from.")
    platform_name: Code | None = None
    platform_family: Code | None = None
    is_flow: bool = Field(False, description="Whether the recommender chose the tracks.")
    at: Timestamp | None = Field(None, description="Time of the prediction; default: now.")
    recent: Annotated[list[RecentPlay], Field(max_length=MAX_RECENT)] = Field(
        default_factory=list, description="Earlier plays of this listener, in any order."
    )


WHO: dict[str, Any] = {"user_id": "12", "gender": 1, "age": 24, "context_type": 0, "platform_name": 1, "is_flow": True}
TRACKS: list[Any] = [{"track_id": "1003"}, {"track_id": "1044"}]


class TrackReference(RequestBody):
    """A track."""

    track_id: Id


class SkipRequest(SkipContext):
    """A request for the skip probabilities of tracks."""

    model_config = ConfigDict(json_schema_extra={"example": {**WHO, "tracks": TRACKS, "explain": True}})

    tracks: Annotated[list[TrackReference], Field(min_length=1, max_length=MAX_TRACKS)]
    explain: bool = Field(False, description="Whether to return a sentence of reasons for each track.")


class Candidate(TrackReference):
    """A track of a list."""

    relevance: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Relevance, higher is better; for all tracks or none. Without it, the order of the list counts.",
    )


class RerankRequest(SkipContext):
    """A request to order a list."""

    model_config = ConfigDict(json_schema_extra={"example": {**WHO, "tracks": TRACKS, "diversity": 0.2}})

    tracks: Annotated[list[Candidate], Field(min_length=1, max_length=MAX_TRACKS)]
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="0: order by value alone; 1: after the first track another artist whenever there is one."
    )

    @model_validator(mode="after")
    def _all_or_none(self) -> RerankRequest:
        if len({track.relevance is None for track in self.tracks}) > 1:
            raise ValueError("tracks: relevance must be given for all of them or for none")
        return self


class RecentPlaysReport(Body):
    """What was done with the request's recent plays."""

    used: int
    already_known: int = Field(description="Dropped, because the release's state already covers their time.")
    unknown_tracks: int


class SkipPrediction(Body):
    """The prediction for one track."""

    track_id: str
    skip_probability: float = Field(description="Calibrated probability of a skip.")
    reason: str | None


class Skips(Body):
    """Skip probabilities."""

    release: str
    week: str
    user_id: str
    known_user: bool = Field(description="Whether the release contains plays of this listener.")
    state_as_of: str
    tracks: list[SkipPrediction] = Field(description="Tracks that the release contains, in the order of the request.")
    unknown: list[str] = Field(description="Track ids that the release does not contain, as the request contains them.")
    recent: RecentPlaysReport


class RerankedTrack(Body):
    """A track in its new position."""

    track_id: str
    skip_probability: float | None = Field(description="null for a track that the release does not contain.")


class Reranked(Body):
    """A list in its new order."""

    release: str | None
    week: str | None
    user_id: str
    known_user: bool
    state_as_of: str | None
    tracks: list[RerankedTrack]
    unknown: list[str] = Field(description="Track ids that the release does not contain, as the request contains them.")
    blocked: list[str] = Field(description="Track ids that the block list removed from the list.")
    recent: RecentPlaysReport
    degraded: Degraded | None
