"""Baseline: LightGBM on the raw columns of the plays, what a user would fit in an afternoon without a feature table.

Shapes   N plays, 13 columns: track, artist, album and genre as numbers, context, platform, platform family, whether the
         recommender chose the track, gender and age of the listener, duration and age of the track, hour of the day
Source   the columns of the DSG17 training table. The listener's id is left out, because the baseline is compared on
         listeners without training plays, where the id only misleads the trees
"""

from __future__ import annotations

import lightgbm as lgb
import numpy as np

from models.arrays import DoubleMatrix, DoubleVector
from models.skip.data.plays import Plays

NUMBERS = ("duration_s", "song_age_days", "user_age")
CATEGORIES = ("context_type", "platform_name", "platform_family", "user_gender", "hour")
MAX_PLAYS = 1_500_000  # training plays; of more plays every k-th is used, as in boosted_trees
MAX_ROUNDS, PATIENCE = 500, 50


def raw_columns(plays: Plays) -> DoubleMatrix:
    """Return the raw columns of plays, (N, 13).

    Raises:
        ValueError: a number or a category is missing.
    """
    ids = (plays.track_N, plays.artist_N, plays.album_N, plays.genre_N, plays.is_flow_N)
    categories = (plays.category(name, "raw_columns") for name in CATEGORIES)
    numbers = plays.numbers(NUMBERS, "raw_columns").T
    return np.stack([np.asarray(column, np.float64) for column in (*ids, *categories, *numbers)], axis=1)


def fit_raw_baseline(train: Plays, valid: Plays | None, seed: int, rounds: int = MAX_ROUNDS) -> lgb.Booster:
    """Fit the baseline.

    Args:
        train: labelled training plays.
        valid: labelled plays that stop the training early; None: all rounds are run.
        seed: seed of LightGBM.
        rounds: largest number of rounds.
    """
    sample = train.subsample(MAX_PLAYS)
    parameters = {
        "objective": "binary",
        "learning_rate": 0.03,
        "num_leaves": 15,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lgb.Dataset(raw_columns(sample), sample.labels(), params=parameters)
    if valid is None:
        return lgb.train(parameters, data, rounds)
    validation = data.create_valid(raw_columns(valid), valid.labels())
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    return lgb.train(parameters, data, rounds, valid_sets=[validation], callbacks=[stop])


def predict_raw_baseline(booster: lgb.Booster, plays: Plays) -> DoubleVector:
    """Return the probability that each play is listened to, (N,)."""
    return np.asarray(booster.predict(raw_columns(plays)), np.float64)
