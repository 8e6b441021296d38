"""Reads the feature table as the arrays that skip models take, split and cleaned.

Input   skip_features, one variant, one day at a time     Output  models.skip.data.plays.Plays
Memory  float32 numbers and int32 categories of the requested rows, once, and one day beside them

Models are trained and evaluated on labelled plays. Rows without a label are the rows to predict, such as a test table.
Which categories are rare and which durations are valid is learned from the training rows of the split alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.settings.skip import CleaningSettings, SplitSettings
from models.arrays import AnyVector, BoolVector, IdVector
from models.skip.data import cleaning as rules
from models.skip.data import splits
from models.skip.data.cleaning import Cleaning, clean_plays
from models.skip.data.plays import IDS, Plays

if TYPE_CHECKING:
    from jobs.platform.context import Context

CATEGORIES = (
    "context_type",
    "platform_name",
    "platform_family",
    "user_gender",
    "hour",
    "weekday",
    "bin_time",
    "bin_release_year",
    "bin_duration",
    "md_mf_group",
    "user_top_genre",
)
NOT_NUMBERS = ("play_id", "sample_id", "ts", *(f"{name}_id" for name in IDS), "is_flow", "is_listened", *CATEGORIES)
NUMBERS = tuple(name for name in contracts.load("skip_features").columns if name not in NOT_NUMBERS)


@dataclass(frozen=True, eq=False)
class LabelledPlays:
    """Labelled plays with their split.

    Attributes:
        plays: N cleaned plays in time order.
        split_N: int8, TRAIN, VALIDATION or TEST of models/skip/data/splits.py.
        cleaning: the cleaning that was applied, learned from the training plays.
    """

    plays: Plays
    split_N: NDArray[np.int8]
    cleaning: Cleaning

    def of_split(self, split: int) -> Plays:
        """Return the plays of one split: a view if the split is contiguous in time, otherwise a copy."""
        in_split_N = self.split_N == split
        edges = np.flatnonzero(np.diff(in_split_N, prepend=False, append=False))
        return self.plays.rows(slice(int(edges[0]), int(edges[1])) if len(edges) == 2 else in_split_N)

    def of_unseen_listeners(self) -> BoolVector:
        """Return which of the plays are of listeners without a training play, (N,)."""
        return ~np.isin(self.plays.user_N, self.plays.user_N[self.split_N == splits.TRAIN])


def read_labelled(
    context: Context,
    names: Iterable[str] = NUMBERS,
    *,
    variant: str = "past",
    split: SplitSettings | None = None,
    first: str = "",
    end: str = "9999-12-31",
) -> LabelledPlays:
    """Return every labelled play of the days first <= day < end, split and cleaned.

    Args:
        context: lake and settings.
        names: the numbers to read, columns of skip_features.
        variant: partition of skip_features, `past` or `leaky`.
        split: how to split; None: as skip.split.
        first: first day, YYYY-MM-DD; empty: the first day of the table.
        end: the day after the last.

    Raises:
        BadArgument: a name is not a number of the table.
        CheckFailed: there are no labelled plays, a split is empty, or all training plays have the same label.
    """
    wanted, settings = tuple(names), context.settings.skip
    plays, _ = read_rows(context, wanted, variant, first, end)
    if not len(plays):
        raise CheckFailed(
            f"skip_features: variant {variant} has no labelled plays from {first or 'the first day'} to {end}"
        )
    split_N = assign_splits(plays, split or settings.split)
    sizes = {name: int((split_N == code).sum()) for code, name in enumerate(("train", "validation", "test"))}
    if not all(sizes.values()):
        raise CheckFailed(f"skip: split {(split or settings.split).kind} leaves a part without plays: {sizes}")
    train = split_N == splits.TRAIN
    train_labels = plays.labels()[train]
    if train_labels.min() == train_labels.max():
        label = "listened to" if train_labels[0] else "skipped"
        raise CheckFailed(
            f"skip: all {sizes['train']} training plays were {label}; a model needs plays of both classes"
        )
    cleaning = fit_cleaning(plays, train, wanted, settings.cleaning)
    return LabelledPlays(clean_plays(plays, cleaning), split_N, cleaning)


def read_unlabelled(
    context: Context,
    cleaning: Cleaning,
    names: Iterable[str] = NUMBERS,
    *,
    variant: str = "past",
    first: str = "",
    end: str = "9999-12-31",
) -> tuple[Plays, IdVector]:
    """Return the rows without a label, in time order, cleaned like the training plays, and their sample_id.

    Args:
        context: lake and settings.
        cleaning: the cleaning that was learned from the training plays.
        names: the numbers to read.
        variant: partition of skip_features.
        first: first day; empty: the first day of the table.
        end: the day after the last.

    Returns:
        The plays, and their sample_id (N,) int64; -1 for a row without one.
    """
    plays, sample_N = read_rows(context, tuple(names), variant, first, end, labelled=False)
    return clean_plays(plays, cleaning), sample_N


def read_rows(
    context: Context, names: tuple[str, ...], variant: str, first: str, end: str, *, labelled: bool = True
) -> tuple[Plays, IdVector]:
    """Return the rows with (or without) a label, uncleaned, by (ts, play_id), and their sample_id.

    Args:
        context: lake and settings.
        names: the numbers to read.
        variant: partition of skip_features.
        first: first day; empty: the first day of the table.
        end: the day after the last.
        labelled: read the rows with a label; False: those without.

    Raises:
        BadArgument: a name is not a number of the table.
        CheckFailed: the table has none of these days.
    """
    unknown = [name for name in names if name not in NUMBERS]
    if unknown:
        raise BadArgument(
            f"skip_features: {', '.join(unknown)} is not a number of the table; choose from {', '.join(NUMBERS)}"
        )
    lake = context.lake
    days = [p["day"] for p in lake.partitions("skip_features") if p["variant"] == variant and first <= p["day"] < end]
    if not days:
        command = "overture skip features" + (" --leaky" if variant == "leaky" else "")
        raise CheckFailed(
            f"skip_features: variant {variant} has no day from {first or 'the first'} to {end}; run `{command}`"
        )
    capacity = sum(lake.rows("skip_features", variant=variant, day=day) for day in days)
    kinds: dict[str, type] = {"ts": np.int64, **{f"{name}_id": np.int64 for name in IDS}, "is_flow": np.bool_}
    kinds |= {"is_listened": np.int8, "sample_id": np.int64} | dict.fromkeys(CATEGORIES, np.int32)
    columns: dict[str, AnyVector] = {name: np.empty(capacity, kind) for name, kind in kinds.items()}
    numbers_NF = np.empty((capacity, len(names)), np.float32)
    to_read = list(dict.fromkeys(("play_id", *kinds, *names)))
    n = 0
    for day in days:
        table = lake.read("skip_features", columns=to_read, variant=variant, day=day)
        without_label = pc.is_null(table.column("is_listened"))
        table = table.filter(pc.invert(without_label) if labelled else without_label).sort_by(
            [("ts", "ascending"), ("play_id", "ascending")]
        )
        part = slice(n, n + table.num_rows)
        for name, target in columns.items():
            target[part] = column_values(table, name)
        for f, name in enumerate(names):
            numbers_NF[part, f] = table.column(name).to_numpy()
        n += table.num_rows
    columns = {name: values[:n] for name, values in columns.items()}
    plays = Plays(
        ts_N=columns["ts"],
        user_N=columns["user_id"],
        track_N=columns["track_id"],
        artist_N=columns["artist_id"],
        album_N=columns["album_id"],
        genre_N=columns["genre_id"],
        categories={name: columns[name] for name in CATEGORIES},
        numbers_NF=numbers_NF[:n],
        names=names,
        is_flow_N=columns["is_flow"],
        listened_N=columns["is_listened"] if labelled else None,
    )
    return plays, columns["sample_id"]


def column_values(table: pa.Table, name: str) -> AnyVector:
    """Return one column without nulls: times in seconds since 1970, -1 for missing values."""
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        return np.asarray(column.cast(pa.int64()).to_numpy() // 1_000_000)
    if column.null_count or name in ("is_listened", "sample_id"):
        column = pc.fill_null(column.cast(pa.int64()), -1)
    return np.asarray(column.to_numpy())


def assign_splits(plays: Plays, settings: SplitSettings) -> NDArray[np.int8]:
    """Return the split of each play, (N,) int8."""
    methods: dict[str, Callable[[], NDArray[np.int8]]] = {
        "global": lambda: splits.by_time(plays.ts_N, settings.train, settings.validation),
        "random": lambda: splits.at_random(len(plays), settings.train, settings.validation, settings.seed),
        "user": lambda: splits.by_user(plays.user_N, plays.ts_N, settings.last_plays),
        "competition": lambda: splits.competition(plays.user_N, plays.ts_N, plays.is_flow_N),
    }
    return methods[settings.kind]()


def category_values(plays: Plays, name: str) -> AnyVector:
    """Return a category or an id column by its name in the table."""
    if name in plays.categories:
        return plays.categories[name]
    return np.asarray(getattr(plays, f"{name.removesuffix('_id')}_N"))


def fit_cleaning(plays: Plays, train: BoolVector, names: tuple[str, ...], settings: CleaningSettings) -> Cleaning:
    """Return the cleaning learned from the training rows: frequent categories and the bounds of a valid duration.

    Args:
        plays: uncleaned plays.
        train: (N,) mask of the training rows.
        names: the numbers that were read.
        settings: skip.cleaning.
    """
    frequent: dict[str, AnyVector] = {}
    for name in settings.rare_columns:
        values = category_values(plays, name)[train]
        if settings.rare_rule == "count":
            frequent[name] = rules.frequent(values, settings.rare_min_count)
        else:
            frequent[name] = rules.frequent_by_quantile(values, settings.rare_quantile)
    if "genre_id" in frequent:
        frequent["user_top_genre"] = frequent["genre_id"]
    bounds = (0.0, float(settings.max_duration_s))
    if settings.duration_rule == "iqr" and "duration_s" in names:
        bounds = rules.iqr_bounds(plays.numbers(("duration_s",))[train, 0])
    return Cleaning(frequent, *bounds)
