"""The section `experiment` of configs/*.yaml: how an A/B test is planned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.settings.base import Positive
from serving.settings import Experiment, Name


class ExperimentSettings(Experiment):
    """An A/B test as it is planned; `overture ab-plan` registers it, `service.experiment` lets the service run it."""

    hypothesis: str = "The semi-personalised lists are streamed more often than those of the former system"
    control: Name = Field("default", description="the arm that the others are compared with")
    metric: Literal["stream", "favorite"] = Field("stream", description="decides; the other one is reported beside it")
    alpha: float = Field(0.01, gt=0, lt=0.5, description="two-sided, over all comparisons (Holm); the paper: 1 %")
    power: float = Field(0.9, ge=0.5, lt=1)
    baseline_rate: float = Field(0.045, gt=0, lt=1, description="of the control, as far as it is known beforehand")
    min_effect: float = Field(0.25, gt=0, description="smallest relative effect that the test must find")
    displays_per_user: float = Field(24.0, gt=0, description="tracks that a listener is shown over the whole test")
    design_effect: float = Field(2.5, ge=1, description="variance against displays that do not hang together")
    attribution_hours: Annotated[int, Field(gt=0, le=168)] = Field(24, description="an outcome counts so long after")
    sample_ratio_alpha: float = Field(0.001, gt=0, lt=1, description="below: listeners got lost in some arm")
    min_effective_users: Positive = Field(300, description="off-policy estimates that rest on fewer are refused")
    max_weight: float = Field(1_000.0, gt=1, description="off-policy weights are cut to this; what it costs is told")
    mlflow_experiment: str = Field("ab_tests", description="MLflow experiment of these runs")

    @model_validator(mode="after")
    def _can_be_tested(self) -> ExperimentSettings:
        if self.control not in {arm.name for arm in self.arms}:
            raise ValueError(f"control: no arm {self.control}")
        if self.baseline_rate * (1 + self.min_effect) >= 1:
            raise ValueError(f"min_effect: a rate of {self.baseline_rate} cannot grow by {self.min_effect:.0%}")
        return self
