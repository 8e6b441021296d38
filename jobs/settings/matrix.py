"""Sections `matrix`, `als` and `svd`: the user-track matrix, the track pairs and their factorisations."""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Literal

from pydantic import Field, field_validator

from jobs.settings.base import Positive, Section


class AffinityWeights(Section):
    """Weight of each signal in the affinity of a user for a track (paper, section 3.1.1)."""

    stream: float = Field(1.0, description="added for each stream of the track")
    favorite_track: float = Field(5.0, description="added once if the track is a favourite")
    favorite_album: float = Field(2.0, description="added once if the track's album is a favourite")
    favorite_artist: float = Field(1.0, description="added once if the track's artist is a favourite")
    skip: float = Field(-0.5, description="added for each skip of the track")
    ban: float = Field(-10.0, description="added for each ban of the track")


class FirstDaySettings(Section):
    """The registration day: what a listener does in it is the input, days 1 to 30 after it are the ground truth."""

    length: Literal["calendar_day", "24_hours"] = Field(
        "calendar_day",
        description="calendar_day: from the registration to the next midnight in `time_zone`; 24_hours: 24 hours from "
        "the registration",
    )
    time_zone: str = Field("UTC", description="calendar_day: time zone of the service, such as Europe/Berlin")

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, name: str) -> str:
        if name != "UTC" and name not in zoneinfo.available_timezones():
            raise ValueError(f"there is no time zone '{name}'; write a name such as Europe/Berlin, or UTC")
        return name

    @property
    def ends_with_utc_day(self) -> bool:
        """Whether every first day ends at midnight UTC."""
        return self.length == "calendar_day" and self.time_zone in ("UTC", "Etc/UTC")


class MatrixSettings(Section):
    """Warm users, the catalogue, affinities and track co-occurrences."""

    window_days: Positive = Field(90, description="days before the as-of time whose events are used")
    n_catalog: Positive = Field(50_000, description="number of tracks in the catalogue, those with the most listeners")
    min_tracks: Positive = Field(20, description="distinct catalogue tracks that a warm user streamed in the window")
    min_truth_tracks: Positive = Field(
        50, description="distinct catalogue tracks that a cohort user streamed on days 1 to 30 after registration"
    )
    first_day: FirstDaySettings = FirstDaySettings()
    weights: AffinityWeights = AffinityWeights()
    max_collection_length: Positive = Field(
        500, description="tracks per collection; of a longer collection the first ones are used"
    )
    min_cooccurrences: Positive = Field(2, description="collections that two tracks must share to form a pair")
    max_neighbours: Positive = Field(
        2_000, description="pairs per track; a pair is kept if it is among the strongest ones of both tracks"
    )
    smoothing: float = Field(
        1.0,
        gt=0,
        le=1,
        description="exponent of the track counts in the PMI (context distribution smoothing); 1: plain PMI",
    )
    shift: float = Field(0.0, ge=0, description="amount subtracted from each PMI, in nats")


class NewReleaseSettings(Section):
    """Tracks that are too new to be among the `matrix.n_catalog` tracks with the most listeners.

    The catalogue contains them in addition, their vectors are estimated, and responses mark them.
    """

    enabled: bool = Field(False, description="add new releases to the catalogue, so that lists can contain them")
    days: Positive = Field(28, description="days before the as-of time in which a new release was released")
    max_tracks: Positive = Field(
        1_000, description="number of new releases, those with the most listeners; each has `groups.min_users` or more"
    )
    max_listeners: Positive = Field(
        20_000, description="warm users in the sample for the estimates, listeners of new releases first"
    )


class AlsSettings(Section):
    """Alternating least squares on implicit feedback (Hu, Koren, Volinsky 2008), which makes the space `ut_als`."""

    d: Positive = Field(256, description="number of dimensions of the vectors")
    iterations: Positive = Field(15, description="largest number of iterations over users and tracks")
    cg_steps: Positive = Field(3, description="conjugate gradient steps for each row and iteration")
    alpha: float = Field(10.0, gt=0, description="confidence = 1 + alpha * affinity")
    regularisation: float = Field(20.0, gt=0, description="weight of the L2 regularisation of the vectors")
    frequency_exponent: float = Field(
        0.0,
        ge=0,
        le=1,
        description="a row's regularisation is multiplied by (its number of entries)^this; 0: the same for all rows",
    )
    tolerance: float = Field(
        1e-3, ge=0, description="training stops when the loss falls by a smaller share in one iteration"
    )
    warm_start: bool = Field(
        False, description="start from the track vectors of the week before; weeks must then be run in order"
    )


class SvdSettings(Section):
    """Randomised SVD of the track PMI matrix (Halko, Martinsson, Tropp 2011), which makes the space `tt_svd`."""

    d: Positive = Field(128, description="number of dimensions of the vectors")
    oversampling: Positive = Field(30, description="random directions beyond d")
    power_iterations: Annotated[int, Field(ge=0)] = Field(
        3,
        description="number of power iterations; more lower the error of the singular values if they fall slowly "
        "(measured in docs/results)",
    )
    exponent: float = Field(0.5, ge=0, le=1, description="p in the track vectors U * S^p")
