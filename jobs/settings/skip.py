"""The section `skip` of configs/*.yaml: cleaning, features, splits, models and their judging, of the skip engine.

Nothing heavy is imported here: every command reads settings. What a recipe may say is checked where a model is made.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from jobs.settings.base import Positive, Section, Share

SplitName = Literal["global", "user", "random", "competition"]
RareColumn = Literal[
    "genre_id", "artist_id", "album_id", "track_id", "context_type", "platform_name", "platform_family"
]
ModelName = Literal[
    "content_based",
    "collaborative",
    "truncated_svd",
    "pmf",
    "rbm",
    "fm",
    "ncf",
    "neumf",
    "graphsage",
    "logistic_features",
    "boosted_trees",
    "session_gru",
]
EVERY: tuple[ModelName, ...] = get_args(ModelName)
RecipeValue = bool | int | float | str | tuple[int | float, ...]


class CleaningSettings(Section):
    """What is left out or replaced. Bounds that come from data are learned from the training rows of a split alone."""

    first_day: date = Field(date(2015, 1, 1), description="earlier listens are dropped (UTC)")
    min_release_date: date = Field(
        date(1900, 1, 11), description="earlier release dates stand for 'unknown' in the data"
    )
    max_bad_share: Share = Field(0.01, description="more unreadable rows than this stop the run")
    duration_rule: Literal["cap", "iqr"] = Field(
        "cap", description="cap: max_duration_s; iqr: quartiles of the training rows -/+ 1.5 times their distance"
    )
    max_duration_s: Positive = Field(1_800, description="duration_rule: cap")
    rare_rule: Literal["count", "quantile"] = Field("count", description="how rare is told from frequent")
    rare_min_count: Positive = Field(50, description="rare_rule: count; fewer training rows make a category -1")
    rare_quantile: Share = Field(0.05, description="rare_rule: quantile; of the counts by category")
    rare_columns: tuple[RareColumn, ...] = Field(
        ("genre_id", "artist_id", "album_id", "context_type"), description="whose rare values become -1"
    )


class FeatureSettings(Section):
    """How features are counted; the tables must be made anew when one of these changes."""

    session_gap_min: Positive = Field(20, description="a longer silence begins a new session")
    smoothing: float = Field(20.0, gt=0, description="plays at the rate above it that are added to each rate")
    rows_per_group: Positive = Field(400_000, description="plays worked on at once by one task; bounds its memory")


class SplitSettings(Section):
    """Which rows learn, tune and judge."""

    kind: SplitName = Field("global", description="the one without a view of the future; the others to compare")
    train: Share = 0.7
    validation: Share = 0.15
    last_plays: Positive = Field(1, le=2, description="user: how many last plays of a user judge")
    seed: int = 7

    @model_validator(mode="after")
    def _leave_a_test(self) -> SplitSettings:
        if not 0 < self.train < self.train + self.validation < 1:
            raise ValueError(
                f"train + validation must leave rows to judge: {self.train} + {self.validation} is not below 1"
            )
        return self


class BlendSettings(Section):
    """Which models the blend chooses from, and how it learns (models/skip/ensemble/fit.py)."""

    members: tuple[ModelName, ...] = Field(
        ("boosted_trees", "logistic_features", "neumf", "graphsage", "session_gru", "fm"),
        description="candidates; each also learns folds of the training plays, those that help are kept",
    )
    folds: Positive = Field(3, description="later parts of the training plays, each forecast from what is before it")
    initial_share: float = Field(0.4, gt=0, lt=1, description="of the training plays, before the first fold")
    min_gain: float = Field(0.0002, ge=0, description="log loss that one more member must take off")


class TuningSettings(Section):
    """The budget of a search; both bounds hold, whichever is met first."""

    trials: Positive = 40
    minutes: float = Field(20.0, gt=0)
    startup_trials: Positive = Field(5, description="trials before the first is given up half-way")


class EvaluationSettings(Section):
    """How models are judged."""

    n_bootstrap: Positive = Field(300, description="resamples of users, for intervals of what is not an AUC")
    min_class_plays: Positive = Field(50, description="plays of either class that a slice needs")
    new_plays: Positive = Field(3, description="a user or track with fewer earlier plays is new")
    explained_model: Literal["boosted_trees", "logistic_features"] = Field(
        "boosted_trees", description="whose importance, learning curve and reasons are shown"
    )
    importance_plays: Positive = Field(20_000, description="newest test plays that columns are shuffled among, at most")
    importance_draws: Positive = 3
    learning_steps: Positive = Field(5, ge=2, description="sizes of training, each twice the one before")
    learning_plays: Positive = Field(1_000_000, description="the largest of them, at most")


class LeakageSettings(Section):
    """The report that shows what features of the future feign."""

    models: tuple[ModelName, ...] = EVERY
    max_plays: Positive = Field(500_000, description="plays, of users drawn whole, that every model learns and answers")


class GateSettings(Section):
    """What a release of the skip engine must show."""

    parity_tolerance: float = Field(1e-4, gt=0, description="largest difference of ONNX from the model, in chances")
    margin_over_rate: float = Field(
        0.01, ge=-1, le=1, description="low end of the AUC gained over the listener's listened share"
    )
    grey_zone: float = Field(0.003, ge=0, description="AUC lost against the champion that a person may accept")
    max_loss: float = Field(0.01, gt=0, description="AUC lost that fails even where the plays cannot prove it")
    max_calibration_error: Share = Field(0.05, description="mean gap of said and happened")
    flow_min_auc: Share = Field(0.55, description="AUC on plays that the recommender chose")
    slice_min_plays: Positive = Field(50, description="plays of the rarer class that a slice needs to be judged")
    min_plays: Positive = Field(1_000, description="plays that a release, or a champion, must be judged on")
    n_bootstrap: Positive = Field(500, description="resamples of users")
    latency_tracks: Annotated[int, Field(ge=1, le=500)] = Field(50, description="tracks of a timed request")
    latency_ms: float = Field(100.0, gt=0, description="p99 of one request, from its arrival to the chances")


class UpdateSettings(Section):
    """What a day adds to the champion (jobs/release/skip/daily_update.py, relearn.py)."""

    window_days: Positive = Field(7, description="days before the day whose plays may teach")
    min_plays: Positive = Field(2_000, description="fewer plays since training teach nothing")
    holdout_share: float = Field(0.3, gt=0, lt=1, description="newest share of them that decides what stays")


class SkipSettings(Section):
    """All of the skip engine."""

    cleaning: CleaningSettings = CleaningSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
    models: tuple[ModelName, ...] = Field(EVERY, description="trained every week")
    recipes: dict[ModelName, dict[str, RecipeValue]] = Field(
        default_factory=dict, description="fields of a model's recipe that differ from its defaults"
    )
    blend: BlendSettings = BlendSettings()
    tuning: TuningSettings = TuningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    leakage: LeakageSettings = LeakageSettings()
    gate: GateSettings = GateSettings()
    update: UpdateSettings = UpdateSettings()

    @model_validator(mode="after")
    def _blend_what_is_trained(self) -> SkipSettings:
        for name, models in (("models", self.models), ("blend.members", self.blend.members)):
            if not models or len(set(models)) < len(models):
                raise ValueError(f"{name}: at least one, each once, got {', '.join(models) or 'none'}")
        missing = [name for name in self.blend.members if name not in self.models]
        if missing:
            raise ValueError(f"blend.members: {', '.join(missing)} is not among models, so it is not trained")
        if self.evaluation.explained_model not in self.models:
            raise ValueError(f"evaluation.explained_model: {self.evaluation.explained_model} is not among models")
        return self
