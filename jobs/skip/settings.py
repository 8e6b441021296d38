"""The section `skip` of configs/*.yaml: cleaning, features and splits of the skip engine."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SplitName = Literal["global", "user", "random", "competition"]
RareColumn = Literal[
    "genre_id", "artist_id", "album_id", "track_id", "context_type", "platform_name", "platform_family"
]


class Section(BaseModel):
    """A frozen part of the settings that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CleaningSettings(Section):
    """What is left out or replaced. Bounds that come from data are learned from the training rows of a split alone."""

    first_day: date = Field(date(2015, 1, 1), description="earlier listens are dropped (UTC)")
    oldest_release: date = Field(date(1900, 1, 11), description="earlier release dates stand for 'unknown' in the data")
    max_bad_share: Share = Field(0.01, description="more unreadable rows than this stop the run")
    durations: Literal["cap", "iqr"] = Field(
        "cap", description="cap: longest_s; iqr: quartiles of the training rows -/+ 1.5 times their distance"
    )
    longest_s: Positive = Field(1_800, description="durations: cap")
    rare: Literal["count", "quantile"] = Field("count", description="how rare is told from frequent")
    rare_below: Positive = Field(50, description="rare: count; fewer training rows make a category -1")
    rare_quantile: Share = Field(0.05, description="rare: quantile; of the counts by category")
    rare_columns: tuple[RareColumn, ...] = Field(
        ("genre_id", "artist_id", "album_id", "context_type"), description="whose rare values become -1"
    )


class FeatureSettings(Section):
    """How features are counted; the tables must be made anew when one of these changes."""

    session_gap_min: Positive = Field(20, description="a longer silence begins a new session")
    smoothing: float = Field(20.0, gt=0, description="plays at the rate above it that are added to each rate")
    rows_a_group: Positive = Field(400_000, description="plays worked on at once by one task; bounds its memory")


class SplitSettings(Section):
    """Which rows learn, tune and judge."""

    kind: SplitName = Field("global", description="the one without a view of the future; the others to compare")
    train: Share = 0.7
    validation: Share = 0.15
    last: Positive = Field(1, le=2, description="user: how many last plays of a user judge")
    seed: int = 7

    @model_validator(mode="after")
    def _leave_a_test(self) -> SplitSettings:
        if not 0 < self.train < self.train + self.validation < 1:
            raise ValueError(
                f"train + validation must leave rows to judge: {self.train} + {self.validation} is not below 1"
            )
        return self


class SkipSettings(Section):
    """All of the skip engine's data."""

    cleaning: CleaningSettings = CleaningSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
