"""Properties of the cohort's split: by the user id alone, 2 to 1, and equal to a plain implementation."""

from __future__ import annotations

from hashlib import md5

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from contracts.entity_ids import MAX_ID
from jobs.matrix.first_day import split_of


def naive(user: int) -> str:
    return "validation" if int(md5(str(user).encode()).hexdigest()[:8], 16) % 3 < 2 else "test"


@settings(derandomize=True, deadline=None, max_examples=8)
@given(st.lists(st.integers(0, MAX_ID), min_size=1, max_size=200), st.integers(1, 5))
def test_split_is_a_function_of_the_id_wherever_a_user_is(spark, users, n_partitions):
    """A user who occurs several times, in other partitions, is always in the same split."""
    rows = pd.DataFrame({"user_id": users + users[::-1]})
    frame = spark.createDataFrame(rows).repartition(n_partitions)
    got = {(row.user_id, row.split) for row in frame.select("user_id", split_of("user_id").alias("split")).collect()}
    assert got == {(user, naive(user)) for user in users}


def test_two_of_three_users_are_in_validation(spark):
    frame = spark.range(60_000).select(split_of("id").alias("split"))
    n_validation = frame.where(F.col("split") == "validation").count()
    assert abs(n_validation / 60_000 - 2 / 3) < 0.006  # three standard errors
