"""Section `skip`: cleaning, features, splits, models, evaluation and gate of the skip engine.

`skip.recipes` overrides fields of the models' recipes. The defaults of those fields are in the recipe dataclasses of
models/skip/estimators, which also check the values: a command that only reads settings must not import PyTorch.
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
MemberName = Literal["fm", "ncf", "neumf", "logistic_features", "boosted_trees", "session_gru"]
"""Models with an ONNX form (jobs/skip/onnx_export.py). A release serves the blend, so only they can be its members."""
RecipeValue = bool | int | float | str | tuple[int | float, ...]


class CleaningSettings(Section):
    """Which plays are dropped and which values are replaced. Bounds from data are computed on training rows only."""

    first_day: date = Field(date(2015, 1, 1), description="first day of plays (UTC); earlier plays are dropped")
    min_release_date: date = Field(
        date(1900, 1, 11), description="earliest valid release date; an earlier one means 'unknown' in the data"
    )
    max_bad_share: Share = Field(0.01, description="largest share of unreadable rows before the run fails")
    duration_rule: Literal["cap", "iqr"] = Field(
        "cap",
        description="how durations are clipped; cap: to max_duration_s; iqr: to the quartiles of the training rows "
        "-/+ 1.5 times the interquartile range",
    )
    max_duration_s: Positive = Field(1_800, description="duration_rule cap: largest duration, in seconds")
    rare_rule: Literal["count", "quantile"] = Field(
        "count", description="how rare categories are determined; count: by rare_min_count; quantile: by rare_quantile"
    )
    rare_min_count: Positive = Field(
        50, description="rare_rule count: training rows that a category needs; otherwise it becomes -1"
    )
    rare_quantile: Share = Field(
        0.05, description="rare_rule quantile: quantile of the categories' counts below which a category becomes -1"
    )
    rare_columns: tuple[RareColumn, ...] = Field(
        ("genre_id", "artist_id", "album_id", "context_type"), description="columns whose rare categories become -1"
    )


class FeatureSettings(Section):
    """How features are computed. After a change the feature tables must be built again from the first day."""

    session_gap_min: Positive = Field(20, description="pause between two plays that starts a new session, in minutes")
    smoothing: float = Field(
        20.0, gt=0, description="plays at the rate of the next higher level that are added to each rate"
    )
    rows_per_group: Positive = Field(400_000, description="plays that one task processes at once; it limits its memory")


class SplitSettings(Section):
    """How plays are split into training, validation and test."""

    kind: SplitName = Field(
        "global",
        description="global: by time, the only split without information from the future; user, random, competition: "
        "for comparison",
    )
    train: Share = Field(0.7, description="share of plays for training; the test gets the rest")
    validation: Share = Field(0.15, description="share of plays for validation")
    last_plays: Positive = Field(1, le=2, description="kind user: number of last plays of a user in the test")
    seed: int = Field(7, description="kind random: seed of the split")

    @model_validator(mode="after")
    def _leave_a_test(self) -> SplitSettings:
        if not 0 < self.train < self.train + self.validation < 1:
            raise ValueError(
                f"train + validation: must be below 1, so that a test remains, and train above 0; "
                f"got {self.train} + {self.validation}"
            )
        return self


class BlendSettings(Section):
    """Which models the blend selects from, and how it is fitted."""

    members: tuple[MemberName, ...] = Field(
        ("boosted_trees", "logistic_features", "neumf", "session_gru", "fm"),
        description="candidates, models that can be exported to the service; each is also trained on the folds of the "
        "training plays and on all plays; those that improve the blend are selected",
    )
    folds: Positive = Field(
        3, description="consecutive parts of the training plays; models trained on the plays before a part predict it"
    )
    initial_share: float = Field(0.4, gt=0, lt=1, description="share of the training plays before the first fold")
    min_gain: float = Field(0.0002, ge=0, description="decrease of the log loss that one more member must bring")


class TuningSettings(Section):
    """The budget of a hyperparameter search. It ends at the first of the two limits."""

    trials: Positive = Field(40, description="largest number of trials")
    minutes: float = Field(20.0, gt=0, description="longest duration, in minutes")
    startup_trials: Positive = Field(5, description="trials before the first one may be pruned")


class EvaluationSettings(Section):
    """How models are evaluated."""

    n_bootstrap: Positive = Field(300, description="number of bootstrap resamples of users, for metrics other than AUC")
    min_class_plays: Positive = Field(50, description="plays of each class that a slice needs to be reported")
    new_plays: Positive = Field(3, description="earlier plays below which a user or a track counts as new")
    explained_model: Literal["boosted_trees", "logistic_features"] = Field(
        "boosted_trees", description="model whose importances, learning curve and reasons are shown"
    )
    importance_plays: Positive = Field(
        20_000, description="largest number of test plays for permutation importance, the newest ones"
    )
    importance_draws: Positive = Field(3, description="permutations of each column")
    learning_steps: Positive = Field(
        5, ge=2, description="points of the learning curve; each has twice the training plays of the one before"
    )
    learning_plays: Positive = Field(1_000_000, description="largest number of training plays in the learning curve")


class LeakageSettings(Section):
    """The report that measures how much features from the future raise each model's AUC."""

    models: tuple[ModelName, ...] = Field(EVERY, description="models in the report")
    max_plays: Positive = Field(
        500_000, description="largest number of plays; above it, users are sampled with all plays"
    )


class GateSettings(Section):
    """Rules that a release of the skip engine must pass."""

    parity_tolerance: float = Field(
        1e-4, gt=0, description="largest absolute difference between the probabilities of ONNX and of the model"
    )
    margin_over_rate: float = Field(
        0.01,
        ge=-1,
        le=1,
        description="AUC gain over the listener's share of listened plays that the low end of the interval must reach",
    )
    delta: float = Field(
        0.01,
        gt=0,
        description="largest accepted AUC loss against champion and anchor; a release passes if the lower 95 % bound "
        "excludes a larger one",
    )
    anchor_weeks: Positive = Field(
        12, description="weeks after which a person must confirm or move the anchor; until then its line is grey"
    )
    max_calibration_error: Share = Field(
        0.05, description="largest mean difference between predicted and observed probability"
    )
    flow_min_auc: Share = Field(0.55, description="smallest AUC on plays that the recommender selected (Flow)")
    slice_min_plays: Positive = Field(50, description="plays of the rarer class that a slice needs to be evaluated")
    min_plays: Positive = Field(
        1_000, description="evaluation plays that a release, or a comparison with the champion, needs"
    )
    n_bootstrap: Positive = Field(500, description="number of bootstrap resamples of users")
    latency_tracks: Annotated[int, Field(ge=1, le=500)] = Field(50, description="number of tracks in a timed request")
    latency_ms: float = Field(
        100.0, gt=0, description="largest p99 of one request, from its arrival to the probabilities, in milliseconds"
    )


class UpdateSettings(Section):
    """The daily update of the champion: which recent plays its models are trained on incrementally."""

    window_days: Positive = Field(7, description="days before the day whose plays may be used for training")
    min_plays: Positive = Field(2_000, description="plays since the last training below which no model is trained")
    holdout_share: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the plays since the last training, the newest, that decides which trained parts are used",
    )


class SkipSettings(Section):
    """The skip engine."""

    cleaning: CleaningSettings = CleaningSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
    models: tuple[ModelName, ...] = Field(EVERY, description="models that are trained every week")
    recipes: dict[ModelName, dict[str, RecipeValue]] = Field(
        default_factory=dict,
        description="values by model and field of its recipe; absent fields keep the recipe's default "
        "(models/skip/estimators)",
    )
    blend: BlendSettings = BlendSettings()
    tuning: TuningSettings = TuningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    leakage: LeakageSettings = LeakageSettings()
    gate: GateSettings = GateSettings()
    update: UpdateSettings = UpdateSettings()

    @model_validator(mode="after")
    def _models_are_trained(self) -> SkipSettings:
        for name, models in (("models", self.models), ("blend.members", self.blend.members)):
            if not models or len(set(models)) < len(models):
                raise ValueError(f"{name}: at least one, each once, got {', '.join(models) or 'none'}")
        missing = [name for name in self.blend.members if name not in self.models]
        if missing:
            raise ValueError(f"blend.members: {', '.join(missing)} is not in skip.models, so it is not trained")
        if self.evaluation.explained_model not in self.models:
            raise ValueError(f"evaluation.explained_model: {self.evaluation.explained_model} is not in skip.models")
        return self
