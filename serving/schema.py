"""What the service takes and gives: shapes, bounds, examples. Everything that is not named here is refused."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_LIST, MAX_SIGNALS, MAX_LEFT_OUT, MAX_K, MAX_BATCH = 1_000, 3_000, 2_000, 200, 256
PLAYLISTS = 12

Id = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Ids = Annotated[list[Id], Field(max_length=MAX_LIST)]
K = Annotated[int, Field(strict=True, ge=1, le=MAX_K)]
Kind = Literal["tracks", "artists", "albums", "playlists", "segments"]
MethodAsked = Literal["configured", "semi_pers", "full_pers", "blend", "popularity", "country_age_mean"]
VectorFrom = Literal["network", "country_age_mean", "nothing"]


class Body(BaseModel):
    """Frozen; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Heard(Body):
    """Streams, skips or bans: things done to tracks, seen at three levels as in training."""

    tracks: Ids = Field(default_factory=list)
    artists: Ids | None = Field(
        None, description="one of each track, repeats kept; left out: the artists of the tracks that the release knows"
    )
    albums: Ids | None = Field(None, description="likewise")


class Chosen(Body):
    """Favourites or searches, each level by itself."""

    tracks: Ids = Field(default_factory=list)
    artists: Ids = Field(default_factory=list)
    albums: Ids = Field(default_factory=list)
    playlists: Ids = Field(default_factory=list)


class Onboarding(Body):
    """What was picked when signing up."""

    artists: Ids = Field(default_factory=list)


NOTHING_PICKED, NOTHING_HEARD, NOTHING_CHOSEN = Onboarding(), Heard(), Chosen()


class Listener(Body):
    """What is known of a new listener at the end of the first day; nothing needs to be."""

    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = Field(None, description="ISO 3166-1 alpha-2")
    age: Annotated[int, Field(strict=True, ge=0, le=130)] | None = Field(None, description="years")
    user_id: Id | None = Field(None, description="whom a running experiment assigns; for nothing else")
    # One and the same of each by a call: a default given as it is would be copied in depth for each request.
    onboarding: Onboarding = Field(default_factory=lambda: NOTHING_PICKED)
    streams: Heard = Field(default_factory=lambda: NOTHING_HEARD)
    skips: Heard = Field(default_factory=lambda: NOTHING_HEARD)
    bans: Heard = Field(default_factory=lambda: NOTHING_HEARD)
    favourites: Chosen = Field(default_factory=lambda: NOTHING_CHOSEN)
    searches: Chosen = Field(default_factory=lambda: NOTHING_CHOSEN)

    @model_validator(mode="after")
    def _bounded(self) -> Listener:
        n = sum(len(ids) for ids in self.lists().values())
        if n > MAX_SIGNALS:
            raise ValueError(f"{n} signals; a first day has at most {MAX_SIGNALS}")
        return self

    def lists(self) -> dict[str, list[int]]:
        """Ids by "streams.tracks", "onboarding.artists" ...; lists left out are not there. To be read only."""
        return self._lists

    @cached_property
    def _lists(self) -> dict[str, list[int]]:
        found = {"onboarding.artists": self.onboarding.artists}
        for name in ("streams", "skips", "bans"):
            heard: Heard = getattr(self, name)
            found[f"{name}.tracks"] = heard.tracks
            for level in ("artists", "albums"):
                if (ids := getattr(heard, level)) is not None:
                    found[f"{name}.{level}"] = ids
        for name in ("favourites", "searches"):
            chosen: Chosen = getattr(self, name)
            for level in ("tracks", "artists", "albums", "playlists"):
                found[f"{name}.{level}"] = getattr(chosen, level)
        return found


LISTENER: dict[str, Any] = {
    "country": "FR",
    "age": 23,
    "onboarding": {"artists": [101, 205]},
    "streams": {"tracks": [1003, 1044]},
    "skips": {"tracks": [1010]},
}


class HowMany(Body):
    """How a list is made."""

    method: MethodAsked = Field("configured", description="configured: what the release was promoted to answer with")
    k: K = 50
    leave_out: Annotated[list[Id], Field(max_length=MAX_LEFT_OUT)] = Field(
        default_factory=list, description="tracks that are in no list; banned tracks never are"
    )
    leave_out_first_day: bool | None = Field(
        None, description="leave out the tracks streamed on the first day; null: as the release was judged"
    )


class RecommendationRequest(HowMany):
    """One listener."""

    model_config = ConfigDict(json_schema_extra={"example": {"listener": LISTENER, "k": 5, "explain": True}})

    listener: Listener
    explain: bool = Field(False, description="say which signals of the first day moved the listener most")


class BatchRequest(HowMany):
    """Many listeners, one answer each, in their order."""

    model_config = ConfigDict(json_schema_extra={"example": {"listeners": [LISTENER, {"country": "DE"}], "k": 5}})

    listeners: Annotated[list[Listener], Field(min_length=1, max_length=MAX_BATCH)]


class CarouselRequest(Body):
    """A row of playlists."""

    model_config = ConfigDict(json_schema_extra={"example": {"listener": LISTENER, "diversity": 0.3}})

    listener: Listener
    n: Annotated[int, Field(strict=True, ge=1, le=50)] = PLAYLISTS
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="0: nearest to the listener first; 1: as unlike each other as can be"
    )
    exposure: Literal["log", "cascade"] = Field("log", description="how much a position is looked at")
    leave_out: Annotated[list[Id], Field(max_length=MAX_LEFT_OUT)] = Field(
        default_factory=list, description="playlists to leave out"
    )
    near: Annotated[int, Field(strict=True, ge=0, le=5)] = Field(0, description="tracks named as nearest to each")


class TrackSaid(Body):
    """A track; names are null where they are not known."""

    track_id: int
    title: str | None
    artist_id: int
    artist: str | None
    album_id: int


class SegmentSaid(Body):
    """The segment that the listener stands nearest to."""

    segment_id: int
    distance: float = Field(description="from the listener's vector, at unit length, to the centroid")
    card: dict[str, Any] = Field(description="who its members are and what they play more than others")


class Moved(Body):
    """One signal of the first day and what it does."""

    signal: str = Field(description="streams.tracks, onboarding.artists ...; country; age")
    id: int | str
    name: str | None
    pull: float = Field(description="how much farther from the segment's centroid the listener stands without it")


class Reasons(Body):
    """Why these tracks."""

    says: str
    moved_most: list[Moved] | None = Field(None, description="with explain; largest first, only what pulls nearer")
    considered: int | None = Field(None, description="with explain: signals that were left out one at a time")


class Degraded(Body):
    """What was answered instead, and why."""

    to: str
    why: str


class ExperimentSaid(Body):
    """Which experiment made the list; outcomes are reported with the request_id."""

    experiment: str
    arm: str
    request_id: str


class Recommendation(Body):
    """A list and where it comes from."""

    release: str
    week: str
    space: str
    method: str
    vector_from: VectorFrom
    degraded: Degraded | None
    tracks: list[TrackSaid]
    filled: int = Field(description="tracks at the end of the list that are popular ones: the method had no more")
    segment: SegmentSaid | None
    reasons: Reasons
    unknown: dict[str, list[int | str]] = Field(description="ids and country that the release does not know")
    experiment: ExperimentSaid | None = Field(None, description="absent where no experiment decided")


class Batch(Body):
    """Answers in the order of the listeners."""

    answers: list[Recommendation]


class PlaylistSaid(Body):
    """A place in the carousel."""

    position: int
    playlist_id: int
    relevance: float = Field(description="cosine to the listener's vector")
    exposure: float = Field(description="share of listeners who look at this position, by the model")
    near: list[TrackSaid]


class Carousel(Body):
    """A row of playlists, and what looks at it."""

    release: str
    week: str
    space: str
    vector_from: VectorFrom
    degraded: Degraded | None
    playlists: list[PlaylistSaid]
    exposure_model: str
    expected_relevance: float = Field(description="mean relevance, weighted by exposure")
    likeness: float = Field(description="mean cosine between two playlists of the row")
    unknown: dict[str, list[int | str]]


class Entity(Body):
    """A vector and what it belongs to."""

    release: str
    space: str
    kind: Kind
    id: int
    name: str | None
    vector: list[float]
    card: dict[str, Any] | None = Field(description="of a segment")
    tracks: list[TrackSaid] = Field(description="of a segment: the head of its ranking")


class Neighbour(Body):
    """Something near."""

    id: int
    name: str | None
    cosine: float


class Neighbourhood(Body):
    """What is nearest, nearest first."""

    release: str
    space: str
    kind: Kind
    id: int
    of: Kind
    neighbours: list[Neighbour]


class Found(Body):
    """Something of the catalogue, most popular first."""

    id: int
    name: str | None
    artist: str | None
    genre: str | None


class Search(Body):
    """What matches."""

    release: str
    kind: Kind
    found: list[Found]


class ReleaseSaid(Body):
    """What answers."""

    release: str
    week: str
    space: str
    method: str
    methods: list[str]
    spaces: dict[str, dict[str, int]]
    countries: list[str]
    problems: dict[str, str]


class Problem(Body):
    """What was wrong."""

    error: str
    details: list[dict[str, str]] = []
