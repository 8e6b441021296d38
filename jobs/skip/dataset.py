"""The feature table as the arrays that skip models take, split and cleaned.

Input   skip_features, one variant, a day at a time     Output  models.skip.data.plays.Plays
Memory  float32 numbers and int32 categories of the rows asked for, once, and one day beside them

Labelled plays are what is learned from and judged on; questions are the rows without a label. Rare categories and
durations are told apart by the training rows of the split in use, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.settings.skip import CleaningSettings, SplitSettings
from models.skip.data import cleaning as rules
from models.skip.data import splits
from models.skip.data.cleaning import Cleaning, apply
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
class Labelled:
    """Plays with labels in time order, which split each is in (int8, models/skip/data/splits.py), and the cleaning used."""

    plays: Plays
    split_N: np.ndarray
    cleaning: Cleaning

    def part(self, which: int) -> Plays:
        """The plays of one split; of a split by time a view, otherwise a copy."""
        mine = self.split_N == which
        edges = np.flatnonzero(np.diff(mine, prepend=False, append=False))
        return self.plays.rows(slice(int(edges[0]), int(edges[1])) if len(edges) == 2 else mine)


def labelled(
    context: Context,
    names: Iterable[str] = NUMBERS,
    *,
    variant: str = "past",
    split: SplitSettings | None = None,
    first: str = "",
    end: str = "9999-12-31",
) -> Labelled:
    """Every labelled play of days first <= day < end, split as the settings (or `split`) say.

    Raises:
        BadArgument: a name is no number of the table.
        CheckFailed: no labelled plays; a split without plays; training plays of one class only.
    """
    wanted, chosen = tuple(names), context.settings.skip
    plays, _ = load(context, wanted, variant, first, end, asked=False)
    if not len(plays):
        raise CheckFailed(f"skip_features: variant {variant} holds no labelled plays of days {first or 'all'} to {end}")
    split_N = split_of(plays, split or chosen.split)
    sizes = {name: int((split_N == code).sum()) for code, name in enumerate(("train", "validation", "test"))}
    if not all(sizes.values()):
        raise CheckFailed(f"skip: split {(split or chosen.split).kind} leaves a part without plays: {sizes}")
    train = split_N == splits.TRAIN
    heard = plays.labels()[train]
    if heard.min() == heard.max():
        what = "listened to" if heard[0] else "skipped"
        raise CheckFailed(
            f"skip: all {sizes['train']} training plays were {what}; nothing can be learned from one class"
        )
    learned = learn(plays, train, wanted, chosen.cleaning)
    return Labelled(apply(plays, learned), split_N, learned)


def questions(
    context: Context,
    cleaning: Cleaning,
    names: Iterable[str] = NUMBERS,
    *,
    variant: str = "past",
    first: str = "",
    end: str = "9999-12-31",
) -> tuple[Plays, np.ndarray]:
    """Rows without a label in time order, cleaned as training was, and their sample_id (int64, -1 without one)."""
    plays, sample_N = load(context, tuple(names), variant, first, end, asked=True)
    return apply(plays, cleaning), sample_N


def load(
    context: Context, names: tuple[str, ...], variant: str, first: str, end: str, *, asked: bool
) -> tuple[Plays, np.ndarray]:
    """Rows with labels, or (asked) without, as they are in the table, by (ts, play_id); and their sample_id."""
    unknown = [name for name in names if name not in NUMBERS]
    if unknown:
        raise BadArgument(
            f"skip_features: {', '.join(unknown)} is no number of the table; choose of {', '.join(NUMBERS)}"
        )
    lake = context.lake
    days = [p["day"] for p in lake.partitions("skip_features") if p["variant"] == variant and first <= p["day"] < end]
    if not days:
        command = "overture skip features" + (" --leaky" if variant == "leaky" else "")
        raise CheckFailed(
            f"skip_features: variant {variant} has no day from {first or 'the first'} to {end}; run `{command}`"
        )
    most = sum(lake.rows("skip_features", variant=variant, day=day) for day in days)
    kinds: dict[str, type] = {"ts": np.int64, **{f"{name}_id": np.int64 for name in IDS}, "is_flow": np.bool_}
    kinds |= {"is_listened": np.int8, "sample_id": np.int64} | dict.fromkeys(CATEGORIES, np.int32)
    kept: dict[str, np.ndarray] = {name: np.empty(most, kind) for name, kind in kinds.items()}
    numbers = np.empty((most, len(names)), np.float32)
    columns = list(dict.fromkeys(("play_id", *kinds, *names)))
    n = 0
    for day in days:
        table = lake.read("skip_features", columns=columns, variant=variant, day=day)
        missing = pc.is_null(table.column("is_listened"))
        table = table.filter(missing if asked else pc.invert(missing)).sort_by(
            [("ts", "ascending"), ("play_id", "ascending")]
        )
        part = slice(n, n + table.num_rows)
        for name, target in kept.items():
            target[part] = column(table, name)
        for f, name in enumerate(names):
            numbers[part, f] = table.column(name).to_numpy()
        n += table.num_rows
    kept = {name: values[:n] for name, values in kept.items()}
    plays = Plays(
        ts_N=kept["ts"],
        user_N=kept["user_id"],
        track_N=kept["track_id"],
        artist_N=kept["artist_id"],
        album_N=kept["album_id"],
        genre_N=kept["genre_id"],
        categories={name: kept[name] for name in CATEGORIES},
        numbers_NF=numbers[:n],
        names=names,
        is_flow_N=kept["is_flow"],
        listened_N=None if asked else kept["is_listened"],
    )
    return plays, kept["sample_id"]


def column(table: pa.Table, name: str) -> np.ndarray:
    """One column without nulls: seconds for times, -1 for what is missing."""
    found = table.column(name)
    if pa.types.is_timestamp(found.type):
        return np.asarray(found.cast(pa.int64()).to_numpy() // 1_000_000)
    if found.null_count or name in ("is_listened", "sample_id"):
        found = pc.fill_null(found.cast(pa.int64()), -1)
    return np.asarray(found.to_numpy())


def split_of(plays: Plays, chosen: SplitSettings) -> np.ndarray:
    """The split of each play."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "global": lambda: splits.by_time(plays.ts_N, chosen.train, chosen.validation),
        "random": lambda: splits.at_random(len(plays), chosen.train, chosen.validation, chosen.seed),
        "user": lambda: splits.by_user(plays.user_N, plays.ts_N, chosen.last_plays),
        "competition": lambda: splits.competition(plays.user_N, plays.ts_N, plays.is_flow_N),
    }
    return ways[chosen.kind]()


def values_of(plays: Plays, name: str) -> np.ndarray:
    """A category or a column of ids by its name in the table."""
    if name in plays.categories:
        return plays.categories[name]
    return np.asarray(getattr(plays, f"{name.removesuffix('_id')}_N"))


def learn(plays: Plays, train: np.ndarray, names: tuple[str, ...], chosen: CleaningSettings) -> Cleaning:
    """What is frequent, and how long a track may be, of the training rows."""
    kept: dict[str, np.ndarray] = {}
    for name in chosen.rare_columns:
        values = values_of(plays, name)[train]
        by_count = chosen.rare_rule == "count"
        kept[name] = (
            rules.frequent(values, chosen.rare_min_count)
            if by_count
            else rules.frequent_by_quantile(values, chosen.rare_quantile)
        )
    if "genre_id" in kept:
        kept["user_top_genre"] = kept["genre_id"]
    bounds = (0.0, float(chosen.max_duration_s))
    if chosen.duration_rule == "iqr" and "duration_s" in names:
        bounds = rules.iqr_bounds(plays.numbers(("duration_s",))[train, 0])
    return Cleaning(kept, *bounds)
