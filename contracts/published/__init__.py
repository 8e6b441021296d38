"""Contracts of datasets that others published. Their files are read as they are and do not become tables.

`published/<dataset>.yaml` declares the expected columns, widths and bounds. A bound named `usual_*` causes a warning;
every other bound stops the job that reads the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Vectors:
    """A column of vectors.

    Attributes:
        column: Name of the column.
        width: Number of values of a vector.
        norm: Smallest and largest allowed length of a vector.
        usual_norm: Smallest and largest usual length of a vector.
    """

    column: str
    width: int
    norm: tuple[float, float] | None = None
    usual_norm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Space:
    """The columns of one vector space and the suffix of its feature files."""

    suffix: str
    width: int
    songs: Vectors
    users: Vectors


@dataclass(frozen=True)
class Dataset:
    """One published dataset."""

    dataset: str
    version: int
    owner: str
    about: str
    sizes: dict[str, int]
    spaces: dict[str, Space]
    min_age: int
    usual_max_age: int
    usual_min_truth: int


@cache
def load(dataset: str) -> Dataset:
    """Read `contracts/published/<dataset>.yaml`.

    Raises:
        ValueError: There is no such file, or a field is missing.
    """
    file = FOLDER / f"{dataset}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise ValueError(f"dataset '{dataset}' has no contract; known datasets: {known}")
    raw: dict[str, Any] = yaml.safe_load(file.read_text())
    try:
        return Dataset(
            dataset=raw["dataset"],
            version=int(raw["version"]),
            owner=raw["owner"],
            about=raw["about"],
            sizes=dict(raw["sizes"]),
            spaces={name: _space(spec) for name, spec in raw["spaces"].items()},
            min_age=int(raw["age"]["min"]),
            usual_max_age=int(raw["age"]["usual_max"]),
            usual_min_truth=int(raw["truth"]["usual_min"]),
        )
    except KeyError as error:
        raise ValueError(f"{file.name}: field {error} is missing") from None


def _space(spec: dict[str, Any]) -> Space:
    width = int(spec["width"])
    return Space(spec["suffix"], width, _vectors(width, spec["songs"]), _vectors(width, spec["users"]))


def _vectors(width: int, spec: dict[str, Any]) -> Vectors:
    norms = [tuple(map(float, spec[name])) if name in spec else None for name in ("norm", "usual_norm")]
    return Vectors(spec["column"], width, *norms)  # type: ignore[arg-type]
