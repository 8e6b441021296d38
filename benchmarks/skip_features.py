"""Measure the skip engine's feature table: all days on Spark and in pandas, and one more day on top of the state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import harness
from harness import Measurement, Peer, stopwatch

CONFIG = Path(__file__).parents[1] / "configs" / "skip.yaml"
COMPARED_COLUMNS = (
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
    """Return a context over configs/skip.yaml with its lake in `home`."""
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load

    os.environ["OVERTURE_HOME"] = home
    settings = load(CONFIG)
    return Context(settings, Week.parse(settings.week), Path(home))


def fill(home: str, n_rows: int) -> Measurement:
    """Ingest synthetic plays."""
    from jobs.ingest.dsg17 import adapter as dsg17
    from jobs.ingest.dsg17 import generate as dsg17_files

    context = context_at(home)
    clock = stopwatch()
    dsg17_files.run(Path(home) / "made", n_rows)
    generate_s = clock()
    dsg17.run(context, Path(home) / "made")
    ingest_s = clock() - generate_s
    context.spark.stop()
    return Measurement([ingest_s], {"make s": generate_s, "ingest s": ingest_s})


def column_means(context: Any, days: list[str]) -> dict[str, float]:
    """Return the means of COMPARED_COLUMNS over all plays of some days; they are equal for equal tables."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [
        context.lake.read("skip_features", columns=list(COMPARED_COLUMNS), variant="past", day=day).select(
            COMPARED_COLUMNS
        )
        for day in days
    ]
    table = pa.concat_tables(parts)
    return {"rows": float(table.num_rows)} | {name: pc.mean(table.column(name)).as_py() for name in COMPARED_COLUMNS}


def on_spark(home: str) -> Measurement:
    """Measure all days in one run, features and state written; the session starts before the measurement."""
    from jobs.skip import build_features

    context = context_at(home)
    context.spark.range(10).count()
    clock = stopwatch()
    build_features.run(context)
    seconds = clock()
    context.spark.stop()
    return Measurement([seconds], column_means(context, [p["day"] for p in context.lake.partitions("plays")]))


def in_pandas(home: str) -> Measurement:
    """Measure all days in one data frame: read, computed, written as one Parquet file."""
    import pandas as pd
    import pyarrow as pa

    import contracts
    from skip_pandas import features

    context = context_at(home)
    feature_settings = context.settings.skip.features
    clock = stopwatch()
    days = [context.lake.read("plays", **p) for p in context.lake.partitions("plays")]
    frame: pd.DataFrame = features(
        pa.concat_tables(days).to_pandas(), feature_settings.session_gap_min * 60, feature_settings.smoothing
    )
    wanted = list(contracts.load("skip_features").columns)
    frame[wanted].to_parquet(f"{home}/pandas.parquet", compression="zstd", index=False)
    seconds = clock()
    return Measurement(
        [seconds], {"rows": float(len(frame))} | {name: float(frame[name].mean()) for name in COMPARED_COLUMNS}
    )


def one_more_day(home: str, all_days: bool) -> Measurement:
    """Measure the last day on top of the state of the previous day, or all days again with `all_days`."""
    from jobs.skip import build_features as features

    context = context_at(home)
    days = [p["day"] for p in context.lake.partitions("plays")]
    if not all_days:
        features.run(context, end=days[-2])
    context.spark.range(10).count()
    clock = stopwatch()
    features.run(context, *(() if all_days else (days[-1], days[-1])))
    seconds = clock()
    context.spark.stop()
    return Measurement([seconds], column_means(context, days[-1:]))


def main() -> None:
    """Measure both cases."""
    arguments = harness.parse_arguments("skip_features", __doc__ or "")
    from spark_peers import scratch

    n_rows, runs = (100_000, 1) if arguments.quick else (7_558_834, 2)
    with scratch() as folder:
        home = {"home": str(folder)}
        fill_result = harness.run_in_process(Peer("fill", fill, {**home, "n_rows": n_rows}))[0]
        harness.log(f"skip_features: generated and ingested: {fill_result.quality}")
        peers = harness.compare(
            [
                Peer(
                    "Overture on Spark", on_spark, home, runs, "writes the table by day and the state of the last day"
                ),
                Peer("pandas", in_pandas, home, runs, "one frame, one file, no state; all of it in memory"),
            ]
        )
        day_peers = harness.compare(
            [
                Peer("on top of the state", one_more_day, {**home, "all_days": False}, 1),
                Peer("all days again", one_more_day, {**home, "all_days": True}, 1),
            ]
        )
    about = f"{n_rows} synthetic plays in the format of DSG17, local[2]; equal means of columns indicate equal tables."
    cases = [
        {"case": "all days", "about": about, "peers": peers, "ratios": harness.ratios(peers, "Overture on Spark")},
        {
            "case": "one more day",
            "about": "The last day of the same plays.",
            "peers": day_peers,
            "ratios": harness.ratios(day_peers, "on top of the state"),
        },
    ]
    seconds = peers["Overture on Spark"]["seconds"]["median"]
    promises = [harness.promise("seconds for the whole table", 600, seconds, at_most=True)]
    harness.write_result(arguments, cases, promises, ("seconds for the whole table", seconds))


if __name__ == "__main__":
    main()
