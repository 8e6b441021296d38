"""Find, check and read the Parquet files of the Yambda dataset.

Input    DATA/artist_item_mapping.parquet, DATA/album_item_mapping.parquet                  which artist, which album
         DATA/flat/SIZE/listens.parquet                                                     SIZE is 50m, 500m or 5b
         DATA/flat/SIZE/{likes,unlikes,dislikes,undislikes}.parquet
Columns  all integers. Events: uid, timestamp, item_id, is_organic; listens also played_ratio_pct,
         track_length_seconds. Mappings: artist_id or album_id, item_id. Other columns are not read
Source   dataset card huggingface.co/datasets/yandex/yambda; Ploshkin et al., arXiv:2505.22238. multi_event.parquet,
         embeddings.parquet and the sequential form contain nothing more that is used
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.spark_paths import spark_path

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

EVENT = ("uid", "timestamp", "item_id", "is_organic")
COLUMNS = {
    "listens": (*EVENT, "played_ratio_pct", "track_length_seconds"),
    "likes": EVENT,
    "unlikes": EVENT,
    "dislikes": EVENT,
    "undislikes": EVENT,
    "artist_item_mapping": ("artist_id", "item_id"),
    "album_item_mapping": ("album_id", "item_id"),
}
"""Name of a file without its suffix -> its columns."""

MAPPINGS = ("artist_item_mapping", "album_item_mapping")
MAX_TIMESTAMP_S = 366 * 86_400  # the dataset spans 301 days
MAX_ID = 2**32 - 1
DAY_S = 86_400


def find_files(data: Path) -> dict[str, Path]:
    """Return the seven files by name, with their columns checked.

    Args:
        data: The folder of the dataset, which has one folder flat/SIZE, or that folder flat/SIZE.

    Raises:
        BadArgument: A file is missing, or there are several sizes.
        CheckFailed: A file is not Parquet, or a column is missing or has another type.
    """
    if (data / "listens.parquet").is_file():
        size, root = data, data.absolute().parent.parent
    else:
        sizes = sorted(file.parent for file in data.glob("flat/*/listens.parquet"))
        if len(sizes) != 1:
            sizes_text = f"several: {', '.join(map(str, sizes))}" if sizes else "none"
            raise BadArgument(
                f"--data: {data} needs listens.parquet in one folder flat/SIZE, found {sizes_text}; "
                "give the folder of the dataset or of one size, such as DATA/flat/50m"
            )
        size, root = sizes[0], data
    files = {name: (root if name in MAPPINGS else size) / f"{name}.parquet" for name in COLUMNS}
    for name, file in files.items():
        if not file.is_file():
            raise BadArgument(f"{file}: no such file; the dataset has it, download it")
        check_columns(file, COLUMNS[name])
    return files


def check_columns(file: Path, wanted: Iterable[str]) -> None:
    """Raise CheckFailed if the file is not Parquet, or lacks an integer column of a name."""
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise CheckFailed(f"{file}: cannot be read as Parquet, possibly truncated: {error}") from None
    for name in wanted:
        if name not in schema.names:
            raise CheckFailed(f"{file}: column '{name}' is missing; found {', '.join(schema.names)}")
        kind = schema.field(name).type
        if not pa.types.is_integer(kind) or kind == pa.uint64():
            raise CheckFailed(
                f"{file}: column '{name}' must be an integer, found {kind}; only the flat form of the dataset is read"
            )


def read(spark: SparkSession, file: Path, name: str) -> DataFrame:
    """Return the columns of a file as 64-bit integers, with `reason`: null, or why a row cannot be used.

    Args:
        spark: The session.
        file: A Parquet file.
        name: Its name in COLUMNS.
    """
    from pyspark.sql import functions as F

    columns = COLUMNS[name]
    rows = spark.read.parquet(spark_path(str(file.absolute())))
    rows = rows.select(*(F.col(column).cast("bigint").alias(column) for column in columns))
    ids = [column for column in columns if column.endswith("id")]
    checks = [
        *((f"{column} is missing", F.col(column).isNull()) for column in columns),
        *((f"{column} is not between 0 and {MAX_ID}", ~F.col(column).between(0, MAX_ID)) for column in ids),
    ]
    if "timestamp" in columns:
        outside = ~F.col("timestamp").between(0, MAX_TIMESTAMP_S - 1)
        checks += [
            (f"timestamp is not between 0 and {MAX_TIMESTAMP_S - 1} seconds", outside),
            ("is_organic is not 0 or 1", ~F.col("is_organic").isin(0, 1)),
        ]
    if name == "listens":
        checks += [
            ("played_ratio_pct is negative", F.col("played_ratio_pct") < 0),
            (f"track_length_seconds is not between 1 and {DAY_S}", ~F.col("track_length_seconds").between(1, DAY_S)),
            ("more than a day was played", played_s() > DAY_S),
        ]
    reason = F.coalesce(*(F.when(is_bad, F.lit(text)) for text, is_bad in checks))
    return rows.withColumn("reason", reason)


def played_s() -> Column:
    """Return the played time of a listen in seconds, a double.

    A ratio above 100 is valid: parts of the track were played again (dataset card, FAQ).
    """
    from pyspark.sql import functions as F

    return F.col("played_ratio_pct").cast("double") * F.col("track_length_seconds") / 100


def count_rows(rows: DataFrame, file: Path, max_bad_share: float) -> dict[str, Any]:
    """Return the counts of one file: rows read, bad by reason, and kept.

    Raises:
        CheckFailed: There are too many bad rows.
    """
    counts = {row["reason"]: row["count"] for row in rows.groupBy("reason").count().collect()}
    kept = counts.pop(None, 0)
    n_bad = sum(counts.values())
    if n_bad > max_bad_share * (n_bad + kept):
        reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))
        raise CheckFailed(
            f"{file}: {n_bad} of {n_bad + kept} rows cannot be used, more than source.max_bad_share = "
            f"{max_bad_share:g} allows ({reasons}); nothing was written"
        )
    return {"read": n_bad + kept, "bad": dict(sorted(counts.items())), "kept": kept}
