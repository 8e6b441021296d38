"""Vectors of the catalogue's new releases, which have too few listeners for a factorisation.

Input   catalog, tracks, user_track
Output  rows of track_vectors: the jobs svd and als call `with_new_releases` before they write the table
Method  `models/cold_start/new_releases.py`, over unit vectors; settings `new_releases`
Memory  the streams of at most `new_releases.max_listeners` warm users: those who streamed a new release first

First listeners count from `groups.min_users` on, as in every published mean; with fewer of them in the sample, the
estimate is that of genre, features, artist and album. The vectors get the mean length of the vectors of the least
popular tenth of the other tracks: in a space in which the length increases with popularity, a new release is as long as
these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from pyspark.sql import functions as F
from scipy.sparse import csr_array

from contracts.errors import CheckFailed
from jobs.platform.list_columns import to_matrix
from jobs.platform.progress import log_line
from models.arrays import FloatMatrix
from models.cold_start.new_releases import NewReleases, TrackFacts
from models.cold_start.top_k import normalise

if TYPE_CHECKING:
    from jobs.platform.context import Context


def with_new_releases(context: Context, space: str, vectors_ND: FloatMatrix) -> FloatMatrix:
    """Return the track vectors (N, d) of a space with an estimate for each new release of the catalogue.

    Args:
        context: The week.
        space: Name of the space, for seed and messages.
        vectors_ND: Vectors of the tracks by track_idx. Those of new releases are not used.

    Raises:
        CheckFailed: The other tracks are of too few albums.
    """
    catalog = context.lake.read("catalog", week=context.week.name).sort_by("track_idx")
    n_others = len(catalog) - (pc.sum(catalog["is_new"]).as_py() or 0)
    if n_others == len(catalog):
        return vectors_ND
    tracks = context.lake.read("tracks", columns=["track_id", "genre"])
    rows = pc.index_in(catalog["track_id"], value_set=tracks["track_id"].combine_chunks())
    genre = tracks["genre"].take(rows).combine_chunks().dictionary_encode().indices.fill_null(-1)
    facts_N = TrackFacts(
        genre.to_numpy(zero_copy_only=False).astype(np.int64),
        catalog["artist_id"].to_numpy(),
        catalog["album_id"].to_numpy(),
        content_features(context, len(catalog)),
    )
    heard_UN = sample_streams(context, n_others, len(catalog), context.seed("new_releases"))
    others = np.arange(len(catalog)) < n_others
    unit_ND = normalise(vectors_ND[others])
    try:
        model = NewReleases.fit(
            unit_ND, facts_N.take(others), heard_UN[:, others], context.seed(f"new_releases/{space}")
        )
    except ValueError as error:
        raise CheckFailed(f"track_vectors: {space}: {error}; disable new_releases in the settings") from None
    heard_UM = heard_UN[:, ~others]
    is_published_M = heard_UM.sum(axis=0) >= context.settings.groups.min_users
    estimate_MD = normalise(model.vectors(facts_N.take(~others), csr_array(heard_UM.multiply(is_published_M))))
    length_N = np.sqrt(np.vecdot(vectors_ND, vectors_ND))[:n_others]
    least_popular = length_N[-max(1, n_others // 10) :]
    length = least_popular[least_popular > 0].mean() if least_popular.any() else length_N[length_N > 0].mean()
    log_line(f"{space}  {len(estimate_MD)} new releases; kappa {model.kappa}")
    return np.concatenate([vectors_ND[others], np.float32(length) * estimate_MD])


def content_features(context: Context, n_tracks: int) -> FloatMatrix | None:
    """Return the features of the catalogue's tracks by track_idx, (N, F), NaN where unknown; None if no track has any.

    Raises:
        CheckFailed: The features of two tracks have different lengths.
    """
    tracks = context.lake.spark(context.spark, "tracks").where(F.col("content_features").isNotNull())
    catalog = context.lake.spark(context.spark, "catalog", week=context.week.name).select("track_id", "track_idx")
    table = tracks.join(F.broadcast(catalog), "track_id").select("track_idx", "content_features").toArrow()
    if not table.num_rows:
        return None
    try:
        known_MF = to_matrix(table, "content_features")
    except CheckFailed as error:
        raise CheckFailed(f"tracks: {error}") from None
    features_NF = np.full((n_tracks, known_MF.shape[1]), np.nan, np.float32)
    features_NF[table["track_idx"].to_numpy()] = known_MF
    return features_NF


def sample_streams(context: Context, first_new: int, n_tracks: int, seed: int) -> csr_array:
    """Return which tracks the warm users of the sample streamed in the window: (U, N), 1 for each.

    Args:
        context: The week.
        first_new: track_idx of the first new release; all later tracks are new releases.
        n_tracks: N.
        seed: Seed of the sample.
    """
    entries = context.lake.spark(context.spark, "user_track", week=context.week.name).where(F.col("n_streams") > 0)
    is_new = F.max((F.col("track_idx") >= first_new).cast("int")).alias("is_first_listener")
    order = (F.col("is_first_listener").desc(), F.xxhash64("user_idx", F.lit(seed)), F.col("user_idx"))
    users = entries.groupBy("user_idx").agg(is_new).orderBy(*order).limit(context.settings.new_releases.max_listeners)
    table = entries.join(users.select("user_idx"), "user_idx").select("user_idx", "track_idx").toArrow()
    user = np.unique(table["user_idx"].to_numpy(), return_inverse=True)[1]
    shape = (int(user.max(initial=-1)) + 1, n_tracks)
    streams: csr_array = csr_array((np.ones(len(user), np.float32), (user, table["track_idx"].to_numpy())), shape=shape)
    streams.sort_indices()  # the order of a sum must not depend on the order of rows from Spark
    return streams
