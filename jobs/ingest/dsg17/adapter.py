"""Convert the DSG17 tables (Deezer, 2016): plays of a streaming service, labelled in train.csv, unlabelled in test.csv.

Input    DATA/train.csv (else train_sample.csv), DATA/test.csv if it exists: comma separated, with a header, any order
Output   plays, partition day, and quarantine; days of the lake that are not in the files are dropped
Grain    one row per play; exact repeats are dropped and counted
Time     ts is the time of the play, UTC
Memory   Spark reads the files in blocks; only counts by reason are collected

A row that cannot be read is counted under its first reason and put into the quarantine. The job fails if the share of
such rows exceeds skip.cleaning.max_bad_share. Plays before skip.cleaning.first_day or source.earliest_day are dropped
and counted, plays more than a day in the future are bad rows. A release date that is invalid, a placeholder (such as
1900-01-01) or later than the play becomes null. Durations and rare categories are cleaned where the training rows are
known (models/skip/data/cleaning.py), because their bounds must not be fitted on evaluation rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql.window import Window

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.quarantine import quarantine_rows, replace_quarantine, row_json
from jobs.ingest.time_bounds import time_bounds
from jobs.platform.spark_paths import spark_path
from jobs.platform.temp_dirs import temp_dir

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from jobs.platform.context import Context

LABEL = "is_listened"
COLUMNS = (
    "genre_id",
    "ts_listen",
    "media_id",
    "album_id",
    "context_type",
    "release_date",
    "platform_name",
    "platform_family",
    "media_duration",
    "listen_type",
    "user_gender",
    "user_id",
    "artist_id",
    "user_age",
)
MILLISECONDS = 10**11  # in seconds, this is the year 5138
LATEST = 4_102_444_800  # 2100-01-01
MAX_CODE = 2**31 - 1


def run(context: Context, data: Path | None) -> dict[str, Any]:
    """Write the table `plays`; return rows, days, and numbers of dropped rows by reason.

    Raises:
        BadArgument: no folder is given, or it has no training file.
        CheckFailed: the files break the format.
    """
    if data is None:
        raise BadArgument("--data: dsg17 needs the folder of train.csv (or train_sample.csv) and test.csv")
    files = find_files(data)
    spark, lake, cleaning = context.spark, context.lake, context.settings.skip.cleaning
    bounds = time_bounds(context.settings.source)
    first_day = max(cleaning.first_day, bounds.earliest.date())
    with temp_dir(context, "ingest") as folder:
        facts: dict[str, Any] = {}
        for name, file in files.items():
            parse(spark, file, labelled=name == "train", latest=bounds.latest).write.parquet(str(folder / name))
            facts[name] = count_rows(spark.read.parquet(str(folder / name)), file, first_day, cleaning.max_bad_share)
        staged = [spark.read.parquet(str(folder / name)) for name in files]
        rows = clean(
            staged[0] if len(staged) == 1 else staged[0].unionByName(staged[1]), first_day, cleaning.min_release_date
        )
        report = {"source": "dsg17", "files": facts, "commit": context.commit}
        days = lake.write_days("plays", drop_repeats(rows), report=report)
        bad = [
            quarantine_rows(frame, F.col("row"), file.name)
            for frame, (name, file) in zip(staged, files.items(), strict=True)
            if facts[name]["bad"]
        ]
        bad_rows = {"plays": reduce(lambda a, b: a.unionByName(b), bad)} if bad else {}
        quarantined = replace_quarantine(lake, bad_rows, max(days), report)
    dropped = [p["day"] for p in lake.partitions("plays") if p["day"] not in days]
    for day in dropped:
        lake.drop("plays", day=day)
    written = sum(day.rows for day in days.values())
    return {
        "source": "dsg17",
        "files": facts,
        "rows": {"plays": written},
        "path": f"{lake.root}/plays",
        "repeats": sum(f["kept"] for f in facts.values()) - written,
        "days": {"written": len(days), "first": min(days), "last": max(days)},
        "days_dropped": dropped,
        "quarantined": quarantined,
    }


def find_files(data: Path) -> dict[str, Path]:
    """Return the input files by name, with their columns checked.

    Raises:
        BadArgument: there is no training file.
        CheckFailed: a column is missing or repeated, or the test rows have labels.
    """
    train = next((data / name for name in ("train.csv", "train_sample.csv") if (data / name).is_file()), None)
    if train is None:
        raise BadArgument(f"--data: {data} contains neither train.csv nor train_sample.csv")
    files = {"train": train} | ({"test": data / "test.csv"} if (data / "test.csv").is_file() else {})
    for name, file in files.items():
        columns = header(file)
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise CheckFailed(f"{file}: column '{repeated[0]}' is repeated; remove one of them")
        for column in (*COLUMNS, LABEL if name == "train" else "sample_id"):
            if column not in columns:
                raise CheckFailed(
                    f"{file}: column '{column}' is missing; the header has {', '.join(columns) or 'nothing'}"
                )
    if "test" in files and LABEL in header(files["test"]):
        raise CheckFailed(
            f"{files['test']}: has the column '{LABEL}': test rows must have no labels; "
            "move labelled rows to train.csv, or remove the column"
        )
    return files


def header(file: Path) -> list[str]:
    """Return the column names of the first line."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        return [name.strip().strip('"') for name in lines.readline().strip().lstrip("\ufeff").split(",")]


def parse(spark: SparkSession, file: Path, *, labelled: bool, latest: datetime) -> DataFrame:
    """Return all lines as numbers (null where unreadable), with `reason`: null, or why a row cannot be used.

    The column `row` contains a row that cannot be used as JSON, or as it is if it has too few or too many values.

    Args:
        spark: Spark session.
        file: A file of plays.
        labelled: Whether it has the label, else `sample_id`.
        latest: Plays at or after it are bad.
    """
    names = header(file)
    schema = ", ".join(f"`{name}` string" for name in (*names, "_broken"))
    reader = spark.read.schema(schema).option("header", True).option("columnNameOfCorruptRecord", "_broken")
    lines = reader.csv(spark_path(str(file.absolute())))
    wanted = (*COLUMNS, LABEL if labelled else "sample_id")
    # Two steps, so that each text is converted to a number only once.
    numbered = lines.select(
        "_broken",
        *(F.col(f"`{name}`").alias(f"_{name}") for name in wanted),
        *(F.col(f"`{name}`").try_cast("bigint").alias(name) for name in wanted),
    )
    non_negative = [n for n in wanted if n not in ("ts_listen", "release_date", "listen_type", LABEL)]
    integers_32_bit = ("context_type", "platform_name", "platform_family", "media_duration", "user_gender")
    unreadable = [
        (f"not {len(names)} values", F.col("_broken").isNotNull()),
        *((f"{n} is missing", F.col(f"_{n}").isNull() | (F.trim(f"_{n}") == "")) for n in wanted),
        *((f"{n} is not an integer", F.col(n).isNull()) for n in wanted),
    ]
    invalid = [
        *([(f"{LABEL} is not 0 or 1", ~F.col(LABEL).isin(0, 1))] if labelled else []),
        ("listen_type is not 0 or 1", ~F.col("listen_type").isin(0, 1)),
        ("ts_listen is not between 1970 and 2100", ~F.col("ts_listen").between(0, LATEST - 1)),
        ("ts_listen is in the future", F.col("ts_listen") >= int(latest.timestamp())),
        *((f"{n} is negative", F.col(n) < 0) for n in non_negative),
        *((f"{n} is too large", F.col(n) > MAX_CODE) for n in integers_32_bit),
        ("user_age is above 150", F.col("user_age") > 150),
    ]
    is_readable = F.col("_broken").isNull() & reduce(and_, (F.col(n).isNotNull() for n in wanted))
    reason = F.when(is_readable, first_reason(invalid)).otherwise(first_reason(unreadable))
    text = F.coalesce("_broken", row_json([F.col(f"_{name}").alias(name) for name in wanted]))
    missing = F.lit(None).cast("bigint")
    columns = [F.col(n) if n in wanted else missing.alias(n) for n in (*COLUMNS, LABEL, "sample_id")]
    return numbered.select(*columns, reason.alias("reason"), F.when(reason.isNotNull(), text).alias("row"))


def first_reason(checks: Iterable[tuple[str, Column]]) -> Column:
    """Return the reason of the first check that is true, else null."""
    return F.coalesce(*(F.when(is_invalid, F.lit(reason)) for reason, is_invalid in checks))


def count_rows(rows: DataFrame, file: Path, first_day: date, max_bad_share: float) -> dict[str, Any]:
    """Return the counts of one file: rows read, bad by reason, early, kept and listened to.

    Raises:
        CheckFailed: times are in milliseconds, there are too many bad rows, or no row can be used.
    """
    is_early = F.col("ts_listen") < epoch(first_day)
    is_usable = F.col("reason").isNull() & ~is_early
    counted = rows.groupBy("reason").agg(
        F.count(F.lit(1)).alias("n"),
        F.count(F.when(F.col("ts_listen") >= MILLISECONDS, 1)).alias("large"),
        F.count(F.when(is_usable, 1)).alias("kept"),
        F.count(F.when(is_usable & (F.col(LABEL) == 1), 1)).alias("listened"),
    )
    counts = counted.collect()
    n = sum(row["n"] for row in counts)
    bad_by_reason = {row["reason"]: row["n"] for row in counts if row["reason"] is not None}
    if 2 * sum(row["large"] for row in counts) > n:
        raise CheckFailed(
            f"{file}: column 'ts_listen' contains milliseconds (most values are {MILLISECONDS} or more); "
            "divide it by 1000: the format requires seconds since 1970"
        )
    n_bad, kept = sum(bad_by_reason.values()), sum(row["kept"] for row in counts)
    if not n or n_bad > max_bad_share * n:
        reasons = ", ".join(
            f"{reason}: {count}" for reason, count in sorted(bad_by_reason.items(), key=lambda item: -item[1])
        )
        raise CheckFailed(
            f"{file}: {n_bad} of {n} rows cannot be used, more than skip.cleaning.max_bad_share = "
            f"{max_bad_share:g} allows ({reasons or 'the file has no rows'}); nothing was written"
        )
    if not kept:
        raise CheckFailed(
            f"{file}: no row on or after skip.cleaning.first_day = {first_day} (source.earliest_day, if that is "
            "later); nothing written"
        )
    facts = {
        "file": file.name,
        "read": n,
        "bad": dict(sorted(bad_by_reason.items())),
        "early": n - n_bad - kept,
        "kept": kept,
    }
    return facts | ({"listened": sum(row["listened"] for row in counts)} if file.name != "test.csv" else {})


def clean(rows: DataFrame, first_day: date, min_release_date: date) -> DataFrame:
    """Return the good rows since a day in the columns of the table, with `day`."""
    usable = rows.where(F.col("reason").isNull() & (F.col("ts_listen") >= epoch(first_day)))
    ts = F.timestamp_seconds("ts_listen")
    released = F.to_date(F.try_to_timestamp(F.col("release_date").cast("string"), F.lit("yyyyMMdd")))
    is_implausible = (released < F.lit(min_release_date)) | (released > F.to_date(ts))
    identity = F.xxhash64(*COLUMNS, "sample_id")
    return usable.select(
        identity.bitwiseAND(F.lit(2**63 - 1)).alias("play_id"),
        "sample_id",
        ts.alias("ts"),
        "user_id",
        F.col("media_id").alias("track_id"),
        "artist_id",
        "album_id",
        "genre_id",
        *(F.col(name).cast("int") for name in ("context_type", "platform_name", "platform_family")),
        F.col("media_duration").cast("int").alias("duration_s"),
        F.when(~is_implausible, released).alias("release_date"),
        (F.col("listen_type") == 1).alias("is_flow"),
        *(F.col(name).cast("int") for name in ("user_gender", "user_age")),
        (F.col(LABEL) == 1).alias(LABEL),
        F.to_date(ts).alias("day"),
    )


def drop_repeats(rows: DataFrame) -> DataFrame:
    """Return each play once; of repeats that differ only in the label, the one that was not listened to is used."""
    by_time = Window.partitionBy("day").orderBy("ts", "play_id", LABEL)
    previous = F.lag("play_id").over(by_time)
    numbered = rows.withColumn("_before", previous)
    return numbered.where(F.col("_before").isNull() | (F.col("_before") != F.col("play_id"))).drop("_before")


def epoch(day: date) -> int:
    """Return the first second of a day (UTC), in seconds since 1970."""
    return int(datetime.combine(day, datetime.min.time(), UTC).timestamp())
