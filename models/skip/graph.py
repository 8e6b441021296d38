"""Bipartite graph of users and the tracks they listened to, with the time of each edge.

Shapes   E edges (positive training plays), V nodes, B query nodes, K neighbours of each

Users and tracks are nodes of one graph. A query returns edges strictly earlier than its time only, so that the
prediction for a play never uses the outcome of that play.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_NODE = -1


class Graph:
    """Edges grouped by node (CSR), in time order within each node."""

    def __init__(self, ends_E2: NDArray[np.int64], ts_E: NDArray[np.int64], n_nodes: int) -> None:
        """Build the adjacency from a list of edges.

        Args:
            ends_E2: Both nodes of each edge, 0 to n_nodes - 1.
            ts_E: Time of each edge in seconds since 1970 (UTC).
            n_nodes: Number of nodes V.
        """
        node = np.concatenate([ends_E2[:, 0], ends_E2[:, 1]])
        neighbour = np.concatenate([ends_E2[:, 1], ends_E2[:, 0]])
        ts = np.concatenate([ts_E, ts_E])
        order = np.lexsort((neighbour, ts, node))
        self.neighbour_E = neighbour[order].astype(np.int32)
        self.start_V = np.concatenate([[0], np.cumsum(np.bincount(node, minlength=n_nodes))])
        # Edges are sorted by time within a node, so the keys (node, time) of all edges form one sorted array.
        self.key_E = (node[order] << 32) + ts[order]

    def neighbours(
        self, node_B: NDArray[np.int64], before_B: NDArray[np.int64], k: int, rng: np.random.Generator | None = None
    ) -> NDArray[np.int64]:
        """Return up to k neighbours of each node, connected by edges strictly earlier than a time.

        A node with at most k such edges returns all of its neighbours. Otherwise k are sampled with `rng`, or, without
        `rng`, taken at k evenly spaced positions in time order, which is deterministic.

        Args:
            node_B: Query nodes; NO_NODE has no neighbours.
            before_B: Upper limit of the edges' time, in seconds since 1970 (UTC), exclusive.
            k: Largest number of neighbours.
            rng: Random generator for stratified sampling; None for the deterministic choice.

        Returns:
            Nodes (B, k), filled up with NO_NODE.
        """
        known_B = node_B != NO_NODE
        safe_B = np.where(known_B, node_B, 0)
        start_B = self.start_V[safe_B]
        end_B = np.searchsorted(self.key_E, (safe_B << 32) + np.clip(before_B, 0, (1 << 32) - 1), side="left")
        count_B = np.where(known_B, end_B - start_B, 0)
        shift_BK = rng.random((len(node_B), k)) if rng is not None else np.full((1, k), 0.5)
        step_BK = np.floor((np.arange(k) + shift_BK) * count_B[:, None] / k).astype(np.int64)
        offset_BK = np.where(count_B[:, None] > k, step_BK, np.arange(k))
        exists_BK = offset_BK < count_B[:, None]
        if not len(self.neighbour_E):
            return np.full(exists_BK.shape, NO_NODE, np.int64)
        position_BK = np.where(exists_BK, start_B[:, None] + offset_BK, 0)
        return np.where(exists_BK, self.neighbour_E[position_BK], NO_NODE).astype(np.int64)
