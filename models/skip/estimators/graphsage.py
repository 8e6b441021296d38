"""GraphSAGE over the bipartite graph of listened training plays: two layers and a score of user and track.

Shapes   B plays or query nodes, E edges (positive training plays), V nodes (users, then tracks), K neighbours of a
         node (K1 and K2 in the two layers), D width, G columns of a play
Source   Hamilton et al. 2017, algorithm 1 with mean aggregation; torch_geometric's SAGEConv; the DSG17 report, 5.4:
         64 wide, two layers
Differs  the report trains on listened plays against random pairs; here skipped plays are the negatives. The report's
         graph contains the edges that it scores; here a play sees earlier edges only. Nodes begin with embeddings of
         `node` dimensions instead of 64. The score is a product of both ends plus a layer over them and the columns
         of models/skip/encoding/numeric.py. Ids with fewer than `min_count` plays begin as the unknown node, and have
         no edges
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Dense
from models.skip.encoding.one_hot import Vocabulary
from models.skip.estimators.base import Losses, Needs, SkipModel
from models.skip.estimators.ncf import embedding
from models.skip.estimators.torch_training import (
    MAX_VALIDATION_PLAYS,
    Schedule,
    seeded,
    set_weights,
    train_net,
    weights,
)

NO_NODE = -1
_CHUNK = 1 << 12  # plays per step of a prediction: bounds the memory of their neighbourhoods


@dataclass(frozen=True)
class GraphSageRecipe(Schedule):
    """Hyperparameters of GraphSAGE.

    Attributes:
        width: Width of both layers.
        node: Width of the embedding of a node.
        near: Number of neighbours of a node.
        far: Number of neighbours of each neighbour.
        dropout: Dropout of the layers.
        id_dropout: Probability in training that a node is replaced by the unknown node.
        min_count: Smallest number of plays of an id with its own node.
    """

    width: int = 64
    node: int = 16
    near: int = 6
    far: int = 3
    dropout: float = 0.2
    id_dropout: float = 0.5
    min_count: int = 5
    epoch_plays: int = 200_000
    epochs: int = 8
    patience: int = 2
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.width, self.node, self.near, self.far, self.min_count) < 1:
            raise ValueError(f"graphsage: widths, neighbours and min_count must be at least 1, got {self}")
        if not 0 <= self.dropout < 1 or not 0 <= self.id_dropout < 1:
            raise ValueError(f"graphsage: dropouts must be in [0, 1), got {self}")


class Graph:
    """Bipartite graph of users and the tracks they listened to: edges grouped by node (CSR), in time order.

    Users and tracks are nodes of one graph. A query returns edges strictly earlier than its time only, so that the
    prediction for a play never uses the outcome of that play.
    """

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


class SageNet(nn.Module):
    """Network from nodes and their sampled neighbours to log odds (B,)."""

    def __init__(self, n_nodes: int, columns: int, recipe: GraphSageRecipe) -> None:
        super().__init__()
        self.id_dropout = recipe.id_dropout
        self.table = embedding(n_nodes, recipe.node)
        self.first = SAGEConv(recipe.node, recipe.width)
        self.second = SAGEConv(recipe.width, recipe.width)
        self.dropout = nn.Dropout(recipe.dropout)
        self.last = nn.Sequential(
            nn.Linear(2 * recipe.width + columns, recipe.width),
            nn.ReLU(),
            nn.Dropout(recipe.dropout),
            nn.Linear(recipe.width, 1),
        )

    def forward(self, seed: Tensor, near: Tensor, far: Tensor, x_BG: Tensor) -> Tensor:
        """Return the log odds, (B,).

        Args:
            seed: Nodes (2B,): the users of the plays, then their tracks.
            near: Neighbours (2B, K1) of `seed`, NO_NODE where there are fewer.
            far: Neighbours (2B, K1, K2) of `near`, NO_NODE where there are fewer.
            x_BG: Columns of the plays.
        """
        n, k = near.shape
        inner = self.table(self._drop_ids(torch.cat([seed, near.reshape(-1)])))  # the nodes whose first layer is needed
        edges, sources, offset, row = [], [], 0, 0
        for part in (near, far.reshape(n * k, -1)):
            target, slot = torch.nonzero(part != NO_NODE, as_tuple=True)
            source = part[target, slot]
            edges.append(torch.stack([torch.arange(len(source)) + offset, target + row]))
            sources.append(source)
            offset, row = offset + len(source), row + len(part)
        neighbours = self.table(self._drop_ids(torch.cat(sources)))
        first = self.dropout(torch.relu(self.first((neighbours, inner), torch.cat(edges, dim=1))))
        target, slot = torch.nonzero(near != NO_NODE, as_tuple=True)
        second = self.second((first[n:], first[:n]), torch.stack([target * k + slot, target]))
        user_BD, track_BD = second[: n // 2], second[n // 2 :]
        product_B = (user_BD * track_BD).sum(dim=1) / user_BD.shape[1] ** 0.5
        logit_B: Tensor = product_B + self.last(torch.cat([user_BD, track_BD, x_BG], dim=1)).squeeze(1)
        return logit_B

    def _drop_ids(self, node: Tensor) -> Tensor:
        node = node.clamp(min=0)
        if not self.training or not self.id_dropout:
            return node
        return node * (torch.rand(node.shape) >= self.id_dropout)


class GraphSage(SkipModel):
    """GraphSAGE; a node that is missing from training has no edges and the embedding of the unknown node."""

    name = "graphsage"
    needs = Needs(ids=("user", "track"), numbers=("all",), categories=("all",))
    Recipe = GraphSageRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe = self.recipe
        self.dense = Dense.learn(train, self.name)
        self.users = Vocabulary.learn(train.user_N, recipe.min_count)
        self.tracks = Vocabulary.learn(train.track_N, recipe.min_count)
        nodes_N2 = self._nodes(train)
        is_edge_N = (train.labels() == 1) & (nodes_N2 != 0).all(axis=1)
        self._set_edges(nodes_N2[is_edge_N], train.ts_N[is_edge_N])
        x_NG, sample = self.dense.columns(train, np.float16), valid.subsample(MAX_VALIDATION_PLAYS)
        rng = np.random.default_rng(seed)

        def batch(index_B: NDArray[np.int64]) -> tuple[Tensor, ...]:
            neighbourhood = self._neighbourhood(nodes_N2[index_B], train.ts_N[index_B], rng)
            return (*neighbourhood, torch.from_numpy(x_NG[index_B].astype(np.float32)))

        with seeded(seed):
            self.net = SageNet(self._n_nodes, self.dense.width, recipe)
            return train_net(
                self.net,
                batch,
                train.labels(),
                lambda: log_loss(sample.labels(), self._predict_in_chunks(sample)),
                recipe,
                seed,
            )

    @property
    def _n_nodes(self) -> int:
        return len(self.users) + len(self.tracks) - 1  # users and tracks share the unknown node, 0

    def _nodes(self, plays: Plays) -> NDArray[np.int64]:
        """Return user and track of each play as nodes, (N, 2); 0 is the unknown node."""
        track_N = self.tracks.codes(plays.track_N).astype(np.int64)
        return np.stack(
            [self.users.codes(plays.user_N), np.where(track_N > 0, track_N + len(self.users) - 1, 0)], axis=1
        )

    def _set_edges(self, ends_E2: NDArray[np.int64], ts_E: NDArray[np.int64]) -> None:
        self.ends_E2, self.ts_E = ends_E2, ts_E
        self.graph = Graph(ends_E2, ts_E, self._n_nodes)

    def _neighbourhood(
        self, nodes_B2: NDArray[np.int64], ts_B: NDArray[np.int64], rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        seed = nodes_B2.T.reshape(-1)
        ts = np.concatenate([ts_B, ts_B])
        near = self.graph.neighbours(seed, ts, self.recipe.near, rng)
        far = self.graph.neighbours(near.reshape(-1), np.repeat(ts, self.recipe.near), self.recipe.far, rng)
        far_BKK = far.reshape(*near.shape, self.recipe.far)
        return torch.from_numpy(seed), torch.from_numpy(near), torch.from_numpy(far_BKK)

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        out_N = np.empty(len(plays))
        for start in range(0, len(plays), _CHUNK):
            part = plays.rows(slice(start, start + _CHUNK))
            neighbourhood = self._neighbourhood(self._nodes(part), part.ts_N, None)
            x_BG = torch.from_numpy(self.dense.columns(part).astype(np.float32))
            with torch.inference_mode():
                out_N[start : start + len(part)] = sigmoid(self.net(*neighbourhood, x_BG).numpy())
        return out_N

    def _state(self) -> State:
        facts, arrays = self.dense.state()
        named = {"users": self.users.values_V, "tracks": self.tracks.values_V, "edges": self.ends_E2, "ts": self.ts_E}
        return facts, named | add_prefix("dense", arrays) | add_prefix("net", weights(self.net))

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.users, self.tracks = Vocabulary(arrays["users"]), Vocabulary(arrays["tracks"])
        self.dense = Dense.restore(facts, select_prefix("dense", arrays), self.name)
        self._set_edges(arrays["edges"], arrays["ts"])
        with seeded(0):
            self.net = SageNet(self._n_nodes, self.dense.width, self.recipe)
        set_weights(self.net, select_prefix("net", arrays))
