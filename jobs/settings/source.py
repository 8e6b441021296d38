"""Sections `source` and `simulate`: where the input tables come from."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.settings.base import Positive, Section, Share
from jobs.settings.tables import TablesMixin, check_mapping

Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Percentage = Annotated[int, Field(ge=1, le=100)]


class SimulateSettings(Section):
    """The simulated service. The same sizes and seed give the same bytes."""

    n_users: Positive = Field(12_000, description="number of listeners")
    n_tracks: Positive = Field(4_000, description="number of tracks")
    n_playlists: Positive = Field(3_000, description="number of playlists")
    first_day: Day = Field("2026-06-29", description="first day with events (UTC)")
    last_day: Day = Field("2026-11-22", description="last day with events (UTC), included")
    release_share: Share = Field(
        0.0,
        description="share of the albums that are released during the log, on days spread evenly over it; no event is "
        "about a track before its release",
    )
    context_taste: Share = Field(
        0,
        description="how far the tracks that a listener streams depend on day part and kind of day; 0: not at all. "
        "Above 0, sessions start at all hours",
    )
    content_width: Annotated[int, Field(ge=0)] = Field(
        0,
        description="length of the tracks' `content_features`, which depend on the scene and the artist and contain "
        "noise; 0: none",
    )
    chunk_users: Positive = Field(50_000, description="listeners in memory at once; it limits the peak memory")
    seed: int = Field(7, description="seed of all random draws of the simulation")


class SourceSettings(TablesMixin):
    """The source of the tables users, tracks, events and playlists, or plays for the skip engine."""

    kind: Literal["simulate", "tables", "mpd", "lastfm_1k", "listenbrainz", "deezer", "dsg17", "yambda"] = Field(
        "simulate",
        description="the adapter; tables: your own data by SQL; deezer: the public files contain vectors, so only "
        "`overture paper` reads them; dsg17: for the skip engine; yambda: for both engines",
    )
    seed: int = Field(7, description="seed of what an adapter simulates because the files lack it")
    max_bad_share: Share = Field(
        0.01, description="largest share of bad lines or rows, for tables per table and reason, before the run fails"
    )
    earliest_day: Annotated[date, Field(ge=date(1970, 1, 1))] = Field(
        date(2000, 1, 1),
        description="events before this day (UTC) are bad rows, as are events more than a day after the time of "
        "ingestion; dsg17 drops plays before skip.cleaning.first_day too",
    )
    data: str = Field(
        "", pattern="^(/.*)?$", description="absolute path of the folder with the source's files; `--data` overrides it"
    )
    min_day_share: Share = Field(
        0.5,
        description="tables: a day of events or plays with a smaller share of the rows that its weekday usually has is "
        "incomplete (usual: the median of up to four earlier weeks)",
    )
    accepted_days: tuple[date, ...] = Field(
        (), description="tables: days without data, or with little, that are accepted as complete, such as a holiday"
    )
    deadline_h: float = Field(
        12, ge=0, le=96, description="tables: hours after the end of a day that a pipeline waits for its data"
    )
    catalogue_tracks: Positive = Field(
        20_000, description="mpd: number of tracks, the most frequent ones of the warm playlists"
    )
    min_playlist_tracks: Positive = Field(15, description="mpd: catalogue tracks that a cold playlist needs")
    song_md5: str = Field(
        "",
        pattern="^([0-9a-f]{32})?$",
        description="deezer: published md5 of song_embeddings.parquet; a file with another md5 causes a warning",
    )

    time_origin: date = Field(
        date(2026, 1, 26), description="yambda: synthetic day of time 0, because the dataset has no dates"
    )
    min_played_pct: Percentage = Field(
        50, description="yambda: percentage of a track that a stream needs; shorter listens are skips"
    )

    @model_validator(mode="after")
    def _check_mapping(self) -> SourceSettings:
        if self.kind == "tables":
            check_mapping(self.inputs, self.tables)
        elif self.inputs or self.tables:
            raise ValueError(f"source.inputs and source.tables need kind: tables, got kind: {self.kind}")
        return self
