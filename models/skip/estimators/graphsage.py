"""GraphSAGE over the bipartite graph of listened training plays: two layers and a score of user and track.

Shapes   B plays, V nodes (users, then tracks), K1 and K2 neighbours, D width, G columns of a play
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

from models.skip.data.arrays import State, log_loss, prefixed, sigmoid, under
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
from models.skip.graph import NO_NODE, Graph

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
        own = self.table(self._drop_ids(torch.cat([seed, near.reshape(-1)])))  # the nodes whose first layer is needed
        edges, sources, offset, row = [], [], 0, 0
        for part in (near, far.reshape(n * k, -1)):
            target, place = torch.nonzero(part != NO_NODE, as_tuple=True)
            source = part[target, place]
            edges.append(torch.stack([torch.arange(len(source)) + offset, target + row]))
            sources.append(source)
            offset, row = offset + len(source), row + len(part)
        neighbours = self.table(self._drop_ids(torch.cat(sources)))
        first = self.dropout(torch.relu(self.first((neighbours, own), torch.cat(edges, dim=1))))
        target, place = torch.nonzero(near != NO_NODE, as_tuple=True)
        second = self.second((first[n:], first[:n]), torch.stack([target * k + place, target]))
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
        self._link(nodes_N2[is_edge_N], train.ts_N[is_edge_N])
        x_NG, sample = self.dense.columns(train, np.float16), valid.thinned(MAX_VALIDATION_PLAYS)
        rng = np.random.default_rng(seed)

        def batch(index_B: NDArray[np.int64]) -> tuple[Tensor, ...]:
            neighbourhood = self._neighbourhood(nodes_N2[index_B], train.ts_N[index_B], rng)
            return (*neighbourhood, torch.from_numpy(x_NG[index_B].astype(np.float32)))

        with seeded(seed):
            self.net = SageNet(self._n_nodes, self.dense.width, recipe)
            return train_net(
                self.net, batch, train.labels(), lambda: log_loss(sample.labels(), self.predicted(sample)), recipe, seed
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

    def _link(self, ends_E2: NDArray[np.int64], ts_E: NDArray[np.int64]) -> None:
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

    def _proba(self, plays: Plays) -> NDArray[np.float64]:
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
        return facts, named | prefixed("dense", arrays) | prefixed("net", weights(self.net))

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.users, self.tracks = Vocabulary(arrays["users"]), Vocabulary(arrays["tracks"])
        self.dense = Dense.restore(facts, under("dense", arrays), self.name)
        self._link(arrays["edges"], arrays["ts"])
        with seeded(0):
            self.net = SageNet(self._n_nodes, self.dense.width, self.recipe)
        set_weights(self.net, under("net", arrays))
