"""Section `experiment`: the plan of an A/B test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jobs.settings.base import Positive
from jobs.settings.renamed import RENAMED
from serving.settings import Experiment, Name


class ExperimentSettings(Experiment):
    """The plan of an A/B test. `overture ab-plan` registers it; `service.experiment` starts it in the service."""

    hypothesis: str = Field(
        "The semi-personalised lists are streamed more often than those of the former system",
        description="what the test is about, in words; for the report",
    )
    control: Name = Field("default", description="name of the arm that the other arms are compared with")
    metric: Literal["stream", "favorite"] = Field(
        "stream", description="outcome that decides the test; the other one is reported too"
    )
    alpha: float = Field(
        0.01, gt=0, lt=0.5, description="two-sided significance level over all comparisons (Holm); the paper: 1 %"
    )
    power: float = Field(0.9, ge=0.5, lt=1, description="probability of detecting an effect of min_effect")
    baseline_rate: float = Field(
        0.045, gt=0, lt=1, description="expected rate of the control: outcomes per displayed track"
    )
    min_effect: float = Field(0.25, gt=0, description="smallest relative effect that the test must detect")
    displays_per_user: float = Field(
        24.0, gt=0, description="expected number of tracks displayed to a user during the test"
    )
    design_effect: float = Field(
        2.5,
        ge=1,
        description="variance of the rate relative to independent displays; displays of one user are correlated",
    )
    attribution_hours: Annotated[int, Field(gt=0, le=168)] = Field(
        24, description="hours after a display within which an outcome counts for it"
    )
    sample_ratio_alpha: float = Field(
        0.001,
        gt=0,
        lt=1,
        description="significance level of the sample ratio test; a smaller p-value: an arm lost users",
    )
    min_effective_users: Positive = Field(
        300, description="effective sample size, in users, below which an off-policy estimate is refused"
    )
    max_weight: float = Field(
        1_000.0,
        gt=1,
        description="largest off-policy weight; larger weights are clipped, and the report shows their share",
    )
    mlflow_experiment: str = Field("ab_tests", description="MLflow experiment of the runs")

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> ExperimentSettings:
        """Return the settings of a registered plan, which may have been registered with old names of settings."""
        section = "experiment."
        names = {name: RENAMED.get(section + name, section + name).removeprefix(section) for name in plan}
        return cls.model_validate({names[name]: value for name, value in plan.items()})

    @model_validator(mode="after")
    def _can_be_tested(self) -> ExperimentSettings:
        if self.control not in {arm.name for arm in self.arms}:
            raise ValueError(f"control: there is no arm {self.control}")
        if self.baseline_rate * (1 + self.min_effect) >= 1:
            raise ValueError(
                f"min_effect: a baseline_rate of {self.baseline_rate} cannot grow by {self.min_effect:.0%}, "
                "because a rate stays below 1"
            )
        return self
