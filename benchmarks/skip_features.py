"""The skip engine's feature table: all days on Spark beside pandas on the same plays, and one more day of state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import harness
from harness import Answer, Peer, stopwatch

CONFIG = Path(__file__).parents[1] / "configs" / "skip.yaml"
TOLD = (
    "user_plays",
    "track_plays_7d",
    "session_plays",
    "user_top_genre",
    "avg_song_listened",
    "since_last_s",
    "user_platform_listened",
    "user_kind_listened",
    "user_listened_1h",
    "context_platform_listened",
)


def context_at(home: str) -> Any:
    """A context over configs/skip.yaml with its lake in `home`."""
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load

    os.environ["OVERTURE_HOME"] = home
    settings = load(CONFIG)
    return Context(settings, Week.parse(settings.week), Path(home))


def fill(home: str, n_rows: int) -> Answer:
    """Made-up plays in the lake."""
    from jobs.ingest.dsg17 import adapter as dsg17
    from jobs.ingest.dsg17 import generate as dsg17_make

    context = context_at(home)
    clock = stopwatch()
    dsg17_make.run(Path(home) / "made", n_rows)
    made = clock()
    dsg17.run(context, Path(home) / "made")
    took = clock() - made
    context.spark.stop()
    return Answer([took], {"make s": made, "ingest s": took})


def told(context: Any, days: list[str]) -> dict[str, float]:
    """Means of some features over all plays of these days: equal for equal tables."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [
        context.lake.read("skip_features", columns=list(TOLD), variant="past", day=day).select(TOLD) for day in days
    ]
    table = pa.concat_tables(parts)
    return {"rows": float(table.num_rows)} | {name: pc.mean(table.column(name)).as_py() for name in TOLD}


def on_spark(home: str) -> Answer:
    """All days at once, features and state written; a session is started before the clock."""
    from jobs.skip import build_features

    context = context_at(home)
    context.spark.range(10).count()
    clock = stopwatch()
    build_features.run(context)
    seconds = clock()
    context.spark.stop()
    return Answer([seconds], told(context, [p["day"] for p in context.lake.partitions("plays")]))


def in_pandas(home: str) -> Answer:
    """All days in one frame: read, computed, written as one Parquet file."""
    import pandas as pd
    import pyarrow as pa

    import contracts
    from skip_pandas import features

    context = context_at(home)
    chosen = context.settings.skip.features
    clock = stopwatch()
    days = [context.lake.read("plays", **p) for p in context.lake.partitions("plays")]
    frame: pd.DataFrame = features(pa.concat_tables(days).to_pandas(), chosen.session_gap_min * 60, chosen.smoothing)
    wanted = list(contracts.load("skip_features").columns)
    frame[wanted].to_parquet(f"{home}/pandas.parquet", compression="zstd", index=False)
    seconds = clock()
    return Answer([seconds], {"rows": float(len(frame))} | {name: float(frame[name].mean()) for name in TOLD})


def one_more_day(home: str, again: bool) -> Answer:
    """The last day on top of the state of the day before, or (again) all days once more."""
    from jobs.skip import build_features as features

    context = context_at(home)
    days = [p["day"] for p in context.lake.partitions("plays")]
    if not again:
        features.run(context, end=days[-2])
    context.spark.range(10).count()
    clock = stopwatch()
    features.run(context, *(() if again else (days[-1], days[-1])))
    seconds = clock()
    context.spark.stop()
    return Answer([seconds], told(context, days[-1:]))


def main() -> None:
    """Both cases."""
    chosen = harness.options("skip_features", __doc__ or "")
    from spark_peers import scratch

    n_rows, runs = (100_000, 1) if chosen.quick else (7_558_834, 2)
    with scratch() as folder:
        home = {"home": str(folder)}
        filled = harness.alone(Peer("fill", fill, {**home, "n_rows": n_rows}))[0]
        harness.say(f"skip_features: made and read in: {filled.quality}")
        peers = harness.compare(
            [
                Peer(
                    "Overture on Spark", on_spark, home, runs, "writes the table by day and the state of the last day"
                ),
                Peer("pandas", in_pandas, home, runs, "one frame, one file, no state; all of it in memory"),
            ]
        )
        day = harness.compare(
            [
                Peer("on top of the state", one_more_day, {**home, "again": False}, 1),
                Peer("all days again", one_more_day, {**home, "again": True}, 1),
            ]
        )
    about = (
        f"{n_rows} made-up plays in the form of DSG17, local[2]; means of some columns tell whether tables are equal."
    )
    cases = [
        {"case": "all days", "about": about, "peers": peers, "ratios": harness.ratios(peers, "Overture on Spark")},
        {
            "case": "one more day",
            "about": "The last day of the same plays.",
            "peers": day,
            "ratios": harness.ratios(day, "on top of the state"),
        },
    ]
    seconds = peers["Overture on Spark"]["seconds"]["median"]
    promises = [harness.promise("seconds for the whole table", 600, seconds, at_most=True)]
    harness.finish(chosen, cases, promises, ("seconds for the whole table", seconds))


if __name__ == "__main__":
    main()
