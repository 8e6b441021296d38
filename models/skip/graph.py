"""The bipartite graph of who listened to what, with time: neighbours are those that were there before a moment.

Shapes   E edges (positive training plays), V nodes, B nodes that are asked about, K neighbours of each

Users and tracks are nodes of one graph. A play that is asked about, or trained on, meets only edges strictly earlier
than itself, so that its own outcome is never among what it is judged by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOBODY = -1


class Graph:
    """Edges in rows by node (CSR), each row in the order of time."""

    def __init__(self, ends_E2: NDArray[np.int64], ts_E: NDArray[np.int64], n_nodes: int) -> None:
        """`ends_E2`: both nodes of each edge, 0 to n_nodes - 1."""
        node = np.concatenate([ends_E2[:, 0], ends_E2[:, 1]])
        other = np.concatenate([ends_E2[:, 1], ends_E2[:, 0]])
        ts = np.concatenate([ts_E, ts_E])
        order = np.lexsort((other, ts, node))
        self.other_E = other[order].astype(np.int32)
        self.start_V = np.concatenate([[0], np.cumsum(np.bincount(node, minlength=n_nodes))])
        # A row's edges are sorted by time, so the time of all rows is one sorted array of (node, time).
        self.key_E = (node[order] << 32) + ts[order]

    def neighbours(
        self, node_B: NDArray[np.int64], before_B: NDArray[np.int64], k: int, rng: np.random.Generator | None = None
    ) -> NDArray[np.int64]:
        """Up to k neighbours by edges strictly before a moment, (B, k), NOBODY where there are fewer.

        All of them where there are at most k; else k drawn with `rng`, or, without it, k spread evenly over time,
        which is the same whenever it is asked. A node NOBODY has no neighbours.
        """
        known_B = node_B != NOBODY
        safe_B = np.where(known_B, node_B, 0)
        start_B = self.start_V[safe_B]
        end_B = np.searchsorted(self.key_E, (safe_B << 32) + np.clip(before_B, 0, (1 << 32) - 1), side="left")
        count_B = np.where(known_B, end_B - start_B, 0)
        shift_BK = rng.random((len(node_B), k)) if rng is not None else np.full((1, k), 0.5)
        step_BK = np.floor((np.arange(k) + shift_BK) * count_B[:, None] / k).astype(np.int64)
        at_BK = np.where(count_B[:, None] > k, step_BK, np.arange(k))
        there_BK = at_BK < count_B[:, None]
        if not len(self.other_E):
            return np.full(there_BK.shape, NOBODY, np.int64)
        place_BK = np.where(there_BK, start_B[:, None] + at_BK, 0)
        return np.where(there_BK, self.other_E[place_BK], NOBODY).astype(np.int64)
