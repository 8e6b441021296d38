"""Types that the sections of the settings share."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

Space = Literal["ut_als", "tt_svd"]
SPACES: tuple[Space, ...] = ("tt_svd", "ut_als")
Engine = Literal["cold_start", "skip"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


class Section(BaseModel):
    """A part of the settings. It cannot be changed once it is made, and it refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
