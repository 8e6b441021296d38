"""The playlist task of configs/mpd.yaml in a lake, and the evaluation of a track space on it: used by pairs.py.

Shapes   U warm listeners, B cold ones, N tracks, D = rank
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

CONFIG = Path(__file__).parents[1] / "configs" / "mpd.yaml"
QUICK_PLAYLISTS = 2_000
K = 50
STARTS = 3  # k-means starts
SVD_SEED = 7


@dataclass(frozen=True, order=True)
class Setting:
    """One setting of the track pairs and of the space.

    Attributes:
        smoothing: exponent of the counts in PMI.
        shift: shift of PMI.
        p: exponent of the singular values in U S^p.
        longest: maximum number of tracks of a collection.
    """

    smoothing: float = 1.0
    shift: float = 0.0
    p: float = 0.5
    longest: int = 500

    def __str__(self) -> str:
        return f"smoothing {self.smoothing:g}, shift {self.shift:g}, p {self.p:g}"


@dataclass(frozen=True)
class PlaylistTask:
    """The task of configs/mpd.yaml in the lake of `folder`.

    Attributes:
        folder: home folder of the lake.
    """

    folder: str

    def context(self, setting: Setting) -> Any:
        """Return the context of a job for one setting."""
        from jobs.platform.context import Context
        from jobs.platform.week import Week
        from jobs.settings.settings import load

        settings = load(CONFIG)
        changes = {"smoothing": setting.smoothing, "shift": setting.shift, "max_collection_length": setting.longest}
        matrix = settings.matrix.model_copy(update=changes)
        return Context(settings.model_copy(update={"matrix": matrix}), Week.parse(settings.week), Path(self.folder))

    @cached_property
    def plain(self) -> Any:
        """Context of the default setting."""
        return self.context(Setting())

    @cached_property
    def heard_UN(self) -> sp.csr_matrix:
        """Tracks that each warm listener streamed, binary (U, N)."""
        from jobs.cold_start.segments import stream_matrix

        return stream_matrix(self.plain, self.plain.lake.rows("warm_users", week=self.plain.week.name))

    def cohort(self, split: str) -> tuple[sp.csr_matrix, Any]:
        """Return the first-day streams (B, N) of a split, with repeats, and the truths of the same B listeners.

        Raises:
            SystemExit: the tables first_day and cohort have different listeners.
        """
        from models.cold_start.ragged import Ragged

        lake, week = self.plain.lake, self.plain.week.name
        days = lake.read("first_day", columns=["user_id", "streamed_songs"], week=week, split=split)
        days = days.sort_by("user_id")
        cohort = lake.read("cohort", week=week)
        cohort = cohort.filter(pc.equal(cohort["split"], split)).sort_by("user_id")
        if not days["user_id"].equals(cohort["user_id"]):
            raise SystemExit(f"pairs: first_day and cohort of {split} have different listeners")
        songs, truth = _ragged(days["streamed_songs"]), _ragged(cohort["truth"])
        tracks = lake.read("catalog", columns=["track_id", "track_idx"], week=week).sort_by("track_id")
        track_id, track_idx = (tracks[name].to_numpy() for name in ("track_id", "track_idx"))
        position = np.minimum(np.searchsorted(track_id, songs.ids), len(track_id) - 1)
        in_catalogue = track_id[position] == songs.ids
        row_of_song = np.repeat(np.arange(len(songs)), songs.lengths)[in_catalogue]
        shape = (len(songs), len(track_id))
        first_BN = sp.csr_matrix(
            (np.ones(len(row_of_song), np.float32), (row_of_song, track_idx[position[in_catalogue]])), shape=shape
        )
        return first_BN, Ragged(truth.offsets, truth.ids)

    def factors(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Factorise the pairs in the lake.

        Returns:
            U (N, D) with zero rows for tracks without a pair, sigma (D,), and the number of pairs.
        """
        from sklearn.utils.extmath import randomized_svd

        lake, week = self.plain.lake, self.plain.week.name
        n = lake.rows("catalog", week=week)
        pairs = lake.read("track_pairs", columns=["track_idx_i", "track_idx_j", "pmi"], week=week)
        i, j, value = (pairs[name].to_numpy() for name in ("track_idx_i", "track_idx_j", "pmi"))
        matrix = sp.coo_matrix((value, (i, j)), shape=(n, n)).tocsr()
        matrix = (matrix + matrix.T).tocsr()
        u, sigma, _ = randomized_svd(
            matrix,
            self.plain.settings.svd.d,
            n_oversamples=self.plain.settings.svd.oversampling,
            n_iter=4,
            power_iteration_normalizer="QR",
            random_state=SVD_SEED,
        )
        u[np.diff(matrix.indptr) == 0] = 0
        return u, sigma, len(value)

    def evaluate(self, vectors_ND: np.ndarray, first_BN: sp.csr_matrix, truth: Any) -> dict[str, np.ndarray]:
        """Return NDCG@50 (B,) of each listener, by recommender.

        Args:
            vectors_ND: track vectors (N, D).
            first_BN: first-day streams (B, N).
            truth: tracks that each of the B listeners streamed afterwards.
        """
        from blockfactor.kmeans import kmeans
        from models.cold_start.methods import SemiPers
        from models.cold_start.segments import rankings
        from models.cold_start.top_k import normalise, top_k
        from models.evaluation.metrics import score

        settings = self.plain.settings.segments
        mean_BD = (first_BN @ vectors_ND) / np.maximum(first_BN.sum(axis=1).A, 1).astype(np.float32)
        warm_UD = normalise(self.heard_UN @ vectors_ND)
        by_start = []
        for start in range(STARTS):
            seed = self.plain.seed(f"segments/tt_svd/{start}")
            clustering = kmeans(warm_UD, settings.k, seed, settings.max_iter, settings.n_init)
            ranking_KL = rankings(clustering.labels, self.heard_UN, settings.k, settings.ranking_length)
            lists_BK = SemiPers(lambda x: x, clustering.centroids, ranking_KL).recommend(mean_BD, K)
            by_start.append(score(lists_BK, truth, K)["ndcg"])
        nearest = score(top_k(mean_BD, vectors_ND, K, "cosine"), truth, K)["ndcg"]
        return {"segment": np.mean(by_start, axis=0), "nearest": nearest}


def _ragged(column: pa.ChunkedArray) -> Any:
    from models.cold_start.ragged import Ragged

    lists = column.combine_chunks()
    return Ragged(lists.offsets.to_numpy().astype(np.int64), lists.flatten().to_numpy().astype(np.int64))


def subset(source: Path, target: Path, playlists: int) -> Path:
    """Write the first `playlists` playlists of `source` to `target` in the same format; return `target`."""
    from jobs.ingest.mpd import adapter as mpd

    target.mkdir()
    pairs = pq.read_table(source / mpd.PAIRS)
    row = pairs["row"].to_numpy()
    last = np.unique(row)[:playlists][-1]
    pq.write_table(pairs.filter(pa.array(row <= last)), target / mpd.PAIRS)
    (target / mpd.MAP).symlink_to((source / mpd.MAP).absolute())
    return target
