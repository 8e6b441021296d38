"""Section `paper`: the experiment of Briand et al. 2021 on their public files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.settings.base import Positive, Section


class PaperSettings(Section):
    """The command `overture paper`, which repeats the experiment of Briand et al. 2021 on their public files."""

    recipe: Literal["paper", "code"] = Field(
        "code",
        description="recipe of the network, both with Adam; paper: section 3.2.3 (rate 1e-4, raw output); code: "
        "the authors' published code (rate 1e-5, unit length)",
    )
    epochs: Positive | None = Field(None, description="number of epochs of the network; null: that of the recipe")
    similarity: Literal["dot", "cosine"] = Field(
        "cosine", description="score of fully personalised lists; the paper names cosine, its code uses the dot product"
    )
    segments: Positive = Field(1_000, description="number of segments")
    max_iter: Positive = Field(20, description="largest number of k-means iterations")
    n_init: Positive = Field(1, description="number of k-means runs with other seeds; the run of least inertia is used")
    k: Positive = Field(50, description="length of the evaluated lists, in tracks")
    other_k: tuple[Positive, ...] = Field(
        (25, 100), description="further lengths at which every method is evaluated, in tracks"
    )
    models: Positive = Field(
        5, description="number of fits of each method that learns, each with a seed of its own; tables give their mean"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device of the training; auto: a GPU if there is one"
    )
    card_min_users: Positive = Field(
        20, description="warm users that a segment needs to be described, for the privacy of its members"
    )
    experiment: str = Field("paper", description="MLflow experiment of the runs")
