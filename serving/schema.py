"""Request and response bodies of the HTTP API: fields, bounds and examples.

Ids are those of the source. They are strings in every response. A request may use a number where the source's ids are
integers. Unknown fields are rejected; null in an optional field means the same as leaving it out. Field descriptions
and examples appear on the page /docs.
"""

from __future__ import annotations

from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from contracts.demographics import COUNTRIES_TEXT, MAX_AGE, MIN_AGE, is_country
from contracts.entity_ids import MAX_SAFE_INTEGER
from serving.body_models import Body, RequestBody

MAX_LIST, MAX_SIGNALS, MAX_EXCLUDED, MAX_K, MAX_BATCH = 1_000, 3_000, 2_000, 200, 256
MAX_BATCH_TRACKS = 12_800  # tracks of all lists of a batch: 256 listeners with 50 tracks, or 64 with 200
N_PLAYLISTS = 12
# Request fields of earlier versions: a request that still uses one is refused with the new name.
RENAMED_FIELDS = {
    "leave_out": "exclude",
    "near": "n_nearest_tracks",
    "leave_out_first_day": 'heard: "leave_out" where it was true',
}

MAX_ID_LENGTH = 1_000


class _TextOrInteger:
    """The two forms of an id in a request, with one error message for everything else."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of an id."""
        text = core_schema.str_schema(strict=True, min_length=1, max_length=MAX_ID_LENGTH)
        number = core_schema.int_schema(strict=True, ge=0, le=MAX_SAFE_INTEGER)
        return core_schema.custom_error_schema(
            core_schema.union_schema([text, number]),
            custom_error_type="id",
            custom_error_message=(
                f"An id is a string of 1 to {MAX_ID_LENGTH} characters, or an integer from 0 to 2^53 - 1. "
                "Send a larger integer as a string: JSON clients round it"
            ),
        )


Id = Annotated[str | int, _TextOrInteger()]
# An id in a path or a query.
IdText = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
# A wrong id ends the validation of its list: describing every one would delay all other requests.
Ids = Annotated[list[Id], Field(max_length=MAX_LIST, fail_fast=True)]
K = Annotated[int, Field(strict=True, ge=1, le=MAX_K)]
Kind = Literal["tracks", "artists", "albums", "playlists", "segments"]
RequestedMethod = Literal[
    "configured", "semi_pers", "full_pers", "blend", "ranked_candidates", "popularity", "country_age_mean"
]
VectorSource = Literal["network", "country_age_mean", "nothing"]


def _check_country(code: str) -> str:
    if not is_country(code):
        raise ValueError(f"not a country code ({COUNTRIES_TEXT})")
    return code


Country = Annotated[str, Field(pattern="^[A-Z]{2}$"), AfterValidator(_check_country)]


class TrackSignals(RequestBody):
    """Streams, skips or bans. Each event on a track also counts for its artist and its album."""

    tracks: Ids = Field(default_factory=list, description="Track ids, one entry per event.")
    artists: Ids | None = Field(
        None, description="Artist ids, one entry per event. If omitted, the artists of the known tracks are used."
    )
    albums: Ids | None = Field(
        None, description="Album ids, one entry per event. If omitted, the albums of the known tracks are used."
    )


class EntitySignals(RequestBody):
    """Favourites or searches. The four lists are independent of each other."""

    tracks: Ids = Field(default_factory=list, description="Track ids.")
    artists: Ids = Field(default_factory=list, description="Artist ids.")
    albums: Ids = Field(default_factory=list, description="Album ids.")
    playlists: Ids = Field(default_factory=list, description="Playlist ids.")


class Onboarding(RequestBody):
    """Choices that the listener made at registration."""

    artists: Ids = Field(default_factory=list, description="Ids of the artists that the listener picked.")


class Bans(RequestBody):
    """Bans at three levels. No track of a banned artist or album is recommended."""

    tracks: Ids = Field(default_factory=list, description="Ids of banned tracks.")
    artists: Ids | None = Field(None, description="Ids of banned artists.")
    albums: Ids | None = Field(None, description="Ids of banned albums.")


NO_ONBOARDING, NO_TRACK_SIGNALS, NO_ENTITY_SIGNALS, NO_BANS = Onboarding(), TrackSignals(), EntitySignals(), Bans()


class Listener(RequestBody):
    """A new listener at the end of the first day. All fields are optional."""

    country: Country | None = Field(None, description=f"Country code ({COUNTRIES_TEXT}).")
    age: Annotated[int, Field(strict=True, ge=MIN_AGE, le=MAX_AGE)] | None = Field(None, description="Age in years.")
    user_id: Id | None = Field(
        None, description="User id. Used only to assign the listener to an arm of a running experiment."
    )
    # A factory returns the shared empty object. Pydantic would copy a plain default in depth for each request.
    onboarding: Onboarding = Field(default_factory=lambda: NO_ONBOARDING, description="Choices made at registration.")
    streams: TrackSignals = Field(default_factory=lambda: NO_TRACK_SIGNALS, description="Tracks that were streamed.")
    skips: TrackSignals = Field(default_factory=lambda: NO_TRACK_SIGNALS, description="Tracks that were skipped.")
    bans: Bans = Field(
        default_factory=lambda: NO_BANS,
        description="Tracks, artists and albums that were banned. They are never recommended.",
    )
    favourites: EntitySignals = Field(
        default_factory=lambda: NO_ENTITY_SIGNALS, description="Entities that were marked as favourites."
    )
    searches: EntitySignals = Field(
        default_factory=lambda: NO_ENTITY_SIGNALS, description="Entities that were opened from search results."
    )

    @model_validator(mode="after")
    def _check_size(self) -> Listener:
        n = sum(len(ids) for ids in self.lists().values())
        if n > MAX_SIGNALS:
            raise ValueError(f"{n} signals; a first day has at most {MAX_SIGNALS}")
        return self

    def lists(self) -> dict[str, list[str | int]]:
        """Return the ids of the request by signal, such as "streams.tracks" or "onboarding.artists".

        Lists that the request omitted are absent. The result is cached: callers must not change it.
        """
        return self._lists

    @cached_property
    def _lists(self) -> dict[str, list[str | int]]:
        lists = {"onboarding.artists": self.onboarding.artists}
        for name in ("streams", "skips", "bans"):
            on_tracks: TrackSignals | Bans = getattr(self, name)
            lists[f"{name}.tracks"] = on_tracks.tracks
            for level in ("artists", "albums"):
                if (ids := getattr(on_tracks, level)) is not None:
                    lists[f"{name}.{level}"] = ids
        for name in ("favourites", "searches"):
            on_entities: EntitySignals = getattr(self, name)
            for level in ("tracks", "artists", "albums", "playlists"):
                lists[f"{name}.{level}"] = getattr(on_entities, level)
        return lists


LISTENER: dict[str, Any] = {
    "country": "FR",
    "age": 23,
    "onboarding": {"artists": ["101", "205"]},
    "streams": {"tracks": ["1003", "1044"]},
    "skips": {"tracks": ["1010"]},
}


class Filters(RequestBody):
    """Which tracks are wanted. Tracks whose genre or release date is unknown match no genre and no range."""

    genres: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=50)] = Field(
        default_factory=list, description="Genres, in any case; empty: every genre."
    )
    released_from: date | None = Field(None, description="First release date, YYYY-MM-DD.")
    released_to: date | None = Field(None, description="Last release date, YYYY-MM-DD.")
    explicit: bool | None = Field(
        None,
        description="false: no explicit track; true: explicit tracks whatever the age; null: none for listeners below "
        "the age of the release's settings.",
    )
    exclude_artists: Annotated[list[Id], Field(max_length=MAX_EXCLUDED, fail_fast=True)] = Field(
        default_factory=list, description="Ids of artists to leave out."
    )
    exclude_albums: Annotated[list[Id], Field(max_length=MAX_EXCLUDED, fail_fast=True)] = Field(
        default_factory=list, description="Ids of albums to leave out."
    )


class ListOptions(RequestBody):
    """Method, length and exclusions of a list."""

    method: RequestedMethod = Field(
        "configured",
        description="Recommendation method. `configured` is the method that the release was promoted with.",
    )
    k: K = Field(50, description="Number of tracks.")
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDED, fail_fast=True)] = Field(
        default_factory=list, description="Ids of tracks to exclude. Banned tracks are always excluded."
    )
    heard: Literal["keep", "leave_out", "only_new_artists"] | None = Field(
        None,
        description="What happens to tracks that the listener has heard: `keep`, `leave_out`, or `only_new_artists`, "
        "which leaves out all tracks of their artists too. null: as in the release.",
    )
    per_artist: Annotated[int, Field(strict=True, ge=1, le=MAX_K)] | None = Field(
        None,
        description="Limit of tracks of one artist in 50 places; each prefix of n places has at most "
        "max(1, ceil(per_artist * n / 50)). If omitted: as in the release; null: no limit.",
    )
    per_album: Annotated[int, Field(strict=True, ge=1, le=MAX_K)] | None = Field(
        None,
        description="Limit of tracks of one album, as `per_artist`. If omitted: as in the release; null: no limit.",
    )
    diversity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Weight of the difference between the tracks, 0 to 1. null: as in the release."
    )
    filters: Filters | None = Field(None, description="Which tracks are wanted.")
    shown: Annotated[list[Id], Field(max_length=MAX_EXCLUDED, fail_fast=True)] = Field(
        default_factory=list,
        description="Ids of tracks that were shown to the listener before, one entry per display. Tracks that were "
        "shown often and never played go to the end of the list.",
    )
    cursor: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="`cursor` of an earlier answer to the same request: the list continues after it. It is valid while "
        "the same release is in service.",
    )

    @property
    def plain(self) -> bool:
        """Whether the request has no filters, earlier displays or cursor."""
        return self.filters is None and self.cursor is None and not self.shown


class RecommendationRequest(ListOptions):
    """A request for recommendations for one listener."""

    model_config = ConfigDict(json_schema_extra={"example": {"listener": LISTENER, "k": 5, "explain": True}})

    listener: Listener
    explain: bool = Field(
        False, description="Whether to return the first-day signals that contribute most (`reasons.top_signals`)."
    )


class BatchRequest(ListOptions):
    """A request for recommendations for several listeners. Answers are in the order of the listeners.

    Listeners times `k` is at most 12 800.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"listeners": [LISTENER, {"country": "DE"}], "k": 5}})

    listeners: Annotated[
        list[Listener],
        Field(
            min_length=1,
            max_length=MAX_BATCH,
            fail_fast=True,
            description=f"Listeners; times k at most {MAX_BATCH_TRACKS} tracks.",
        ),
    ]

    @model_validator(mode="after")
    def _check_cost(self) -> BatchRequest:
        n = len(self.listeners) * self.k
        if n > MAX_BATCH_TRACKS:
            raise ValueError(f"listeners times k is {n} tracks; a batch has at most {MAX_BATCH_TRACKS}")
        return self


class CarouselRequest(RequestBody):
    """A request for a row of playlists."""

    model_config = ConfigDict(json_schema_extra={"example": {"listener": LISTENER, "diversity": 0.3}})

    listener: Listener
    n: Annotated[int, Field(strict=True, ge=1, le=50)] = Field(N_PLAYLISTS, description="Number of playlists.")
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="Trade-off between relevance (0) and diversity (1) of the row."
    )
    exposure: Literal["log", "cascade"] = Field(
        "log", description="Model of how many listeners look at each position of the row."
    )
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDED, fail_fast=True)] = Field(
        default_factory=list, description="Ids of playlists to exclude."
    )
    n_nearest_tracks: Annotated[int, Field(strict=True, ge=0, le=5)] = Field(
        0, description="Number of nearest tracks to return with each playlist."
    )


class Track(Body):
    """A track. Names are null where the catalogue has none."""

    track_id: str
    title: str | None
    artist_id: str
    artist: str | None
    album_id: str
    new_release: bool = Field(
        False, description="Whether the track is a new release, whose vector is an estimate; absent if not."
    )


class Segment(Body):
    """The segment whose centroid is nearest to the listener's vector."""

    segment_id: int
    distance: float = Field(description="Euclidean distance from the listener's unit vector to the centroid.")
    card: dict[str, Any] = Field(
        description="Segment card: who the members are and what they play more often than other listeners."
    )


class SignalContribution(Body):
    """A first-day signal and its contribution to the choice of the segment."""

    signal: str = Field(description="Name of the signal: streams.tracks, onboarding.artists, country, age and so on.")
    id: str = Field(description="Id of the entity as the request contains it, country code, or age.")
    name: str | None
    contribution: float = Field(
        description="Increase of the distance to the segment's centroid when this signal is removed."
    )


class Reasons(Body):
    """Explanation of a list."""

    text: str = Field(description="Explanation in one sentence.")
    top_signals: list[SignalContribution] | None = Field(
        None,
        description="Signals with the largest positive contributions, largest first. null unless `explain` is true.",
    )
    n_signals: int | None = Field(
        None, description="Number of signals whose contribution was measured. null unless `explain` is true."
    )


class Degraded(Body):
    """The fallback that produced an answer, and the reason for it."""

    fallback: str = Field(description="What was used instead.")
    reason: str = Field(description="Why the fallback was used.")


class ExperimentAssignment(Body):
    """The experiment and arm that produced the list. Outcomes are reported with the request_id."""

    experiment: str
    arm: str
    request_id: str


class Recommendation(Body):
    """A list of tracks, with its release, method and explanation."""

    release: str = Field(description="Id of the release (SHA-256 of its manifest).")
    week: str = Field(description="Logical week of the release.")
    space: str = Field(description="Embedding space, ut_als or tt_svd.")
    method: str = Field(description="Method that produced the list.")
    vector_source: VectorSource = Field(description="Source of the listener's vector.")
    degraded: Degraded | None = Field(description="null if no fallback was needed.")
    tracks: list[Track] = Field(description="Recommended tracks, best first.")
    n_filled: int = Field(
        description="Number of popular tracks at the end of the list that fill it up to k where the method has no more."
    )
    relaxed: int = Field(
        description="How often the limits per artist and album were raised by one in 50 places, because the catalogue "
        "cannot fill the list under them; 0: never."
    )
    short: str | None = Field(description="Why the list has fewer than k tracks; null if it has k.")
    cursor: str | None = Field(description="Cursor of the tracks after these; null at the end.")
    segment: Segment | None = Field(description="null if the listener has no vector.")
    reasons: Reasons
    unknown: dict[str, list[str]] = Field(
        description="Ids, by signal and as the request contains them, and country that the release does not contain."
    )
    experiment: ExperimentAssignment | None = Field(None, description="Absent unless an experiment chose the method.")


class Batch(Body):
    """Recommendations for several listeners, in the order of the request."""

    answers: list[Recommendation]


class CarouselPlaylist(Body):
    """A playlist and its position in the carousel."""

    position: int = Field(description="Position in the row, from 1.")
    playlist_id: str
    relevance: float = Field(description="Cosine similarity to the listener's vector.")
    exposure: float = Field(description="Estimated share of listeners who look at this position.")
    nearest_tracks: list[Track] = Field(description="Tracks nearest to the playlist, nearest first.")


class Carousel(Body):
    """A row of playlists, with its expected relevance and its diversity."""

    release: str
    week: str
    space: str
    vector_source: VectorSource
    degraded: Degraded | None
    playlists: list[CarouselPlaylist]
    exposure_model: str = Field(description="Formula of the exposure model.")
    expected_relevance: float = Field(description="Mean relevance, weighted by exposure.")
    similarity: float = Field(description="Mean cosine similarity between two playlists of the row.")
    unknown: dict[str, list[str]] = Field(
        description="Ids, by signal and as the request contains them, and country that the release does not contain."
    )


class Entity(Body):
    """The vector of a track, artist, album, playlist or segment."""

    release: str
    space: str
    kind: Kind
    id: str = Field(description="Id of the entity; the number of a segment.")
    name: str | None
    vector: list[float]
    card: dict[str, Any] | None = Field(description="Segment card; null for other kinds.")
    tracks: list[Track] = Field(description="First tracks of the segment's ranking; empty for other kinds.")


class Neighbour(Body):
    """A neighbour and its similarity."""

    id: str
    name: str | None
    cosine: float


class Neighbourhood(Body):
    """The nearest neighbours of an entity by cosine similarity, nearest first."""

    release: str
    space: str
    kind: Kind
    id: str
    of: Kind = Field(description="Kind of the neighbours.")
    neighbours: list[Neighbour]


class SearchResult(Body):
    """A track or an artist that matches the search."""

    id: str
    name: str | None
    artist: str | None
    genre: str | None


class Search(Body):
    """Search results, most popular first."""

    release: str
    kind: Kind
    results: list[SearchResult]


class ReleaseInfo(Body):
    """The release in service: its methods, spaces and countries."""

    release: str
    week: str
    space: str = Field(description="Space that recommendations are made from.")
    method: str = Field(description="Method that `configured` refers to.")
    methods: list[str]
    spaces: dict[str, dict[str, int]] = Field(description="Dimension and number of entities of each space.")
    countries: list[str]
    ids: dict[str, Literal["integer", "text"]] = Field(
        description="Form of the ids of users, tracks, artists, albums and playlists."
    )
    problems: dict[str, str] = Field(description="Parts of the release that cannot be used, with the reason.")


class ErrorDetail(Body):
    """A field that was rejected."""

    field: str = Field(description="Path of the field, such as body.listener.age.")
    message: str


class Problem(Body):
    """An error (RFC 9457), with one entry per rejected field."""

    type: str = Field(description="`urn:overture:problem:` and the code.")
    title: str = Field(description="What the code means.")
    status: int = Field(description="HTTP status.")
    code: str = Field(description="Stable name of the error.")
    detail: str = Field(description="What is wrong with this request.")
    details: list[ErrorDetail] = Field(description="Rejected fields; empty if no field is wrong.")


ERROR_DESCRIPTIONS = {
    400: "not JSON",
    401: "missing or wrong API key",
    404: "the release does not contain the entity",
    405: "method not allowed",
    408: "the body did not arrive in time",
    413: "body too large",
    415: "the content type is not JSON",
    422: "invalid request; the body names the field",
    500: "internal error",
    503: "no release, or overloaded; `Retry-After` contains the seconds to wait before a retry",
}
BODY_ERRORS = (400, 408, 413, 415)  # of operations with a body


def error_responses(descriptions: dict[int, str | None]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route, as FastAPI describes them.

    Args:
        descriptions: description by status; None for that of `ERROR_DESCRIPTIONS`.
    """
    return {
        status: {"model": Problem, "description": description or ERROR_DESCRIPTIONS[status]}
        for status, description in descriptions.items()
    }
