"""Neural collaborative filtering and neural matrix factorisation: networks over user and track.

Shapes   B plays, D width of an embedding, G columns of a play
Source   the DSG17 report, 5.2 (embeddings of user and track concatenated, then one layer: 16 wide, 32 units, dropout
0.4)
         and 5.3 (a product of embeddings, 16 wide, beside an MLP over separate embeddings, 24 wide, one layer, dropout
         0.2); He et al. 2017
Differs  the columns of models/skip/encoding/numeric.py are concatenated with the embeddings, because the report's
         section 5 names features as an input of all of these networks. In training an id is replaced by the unknown
         id with probability `id_dropout`, so that the embedding of unknown ids is trained. Ids with fewer than
         `min_count` plays are unknown
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Dense
from models.skip.encoding.one_hot import Vocabulary
from models.skip.estimators.base import Losses, Needs, SkipModel
from models.skip.estimators.torch_training import (
    MAX_VALIDATION_PLAYS,
    Schedule,
    incremental_schedule,
    seeded,
    set_weights,
    train_net,
    weights,
)


@dataclass(frozen=True)
class NetworkRecipe(Schedule):
    """Hyperparameters of both networks; with millions of plays an epoch is a sample of 500 000.

    Attributes:
        id_dropout: Probability in training that an id is replaced by the unknown id.
        min_count: Smallest number of plays of an id with its own embedding.
    """

    epoch_plays: int = 500_000
    dropout: float = 0.4
    id_dropout: float = 0.5
    min_count: int = 5
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1 or not 0 <= self.id_dropout < 1 or self.min_count < 1:
            raise ValueError(f"network: dropouts must be in [0, 1) and min_count at least 1, got {self}")


@dataclass(frozen=True)
class NcfRecipe(NetworkRecipe):
    """Hyperparameters of NCF, with the report's values as defaults."""

    embedding: int = 16
    units: int = 32


@dataclass(frozen=True)
class NeuMfRecipe(NetworkRecipe):
    """Hyperparameters of NeuMF, with the report's values as defaults."""

    gmf: int = 16
    mlp: int = 24
    dropout: float = 0.2


def embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding table with small random rows; row 0 is for unknown ids."""
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=0.02)
    return table


class _IdNet(nn.Module):
    """Base network: codes of users (B,) and tracks (B,) and columns (B, G) to log odds (B,)."""

    def __init__(self, id_dropout: float) -> None:
        super().__init__()
        self.id_dropout = id_dropout

    def drop_ids(self, code_B: Tensor) -> Tensor:
        """Replace sample ids by the unknown id, in training only."""
        if not self.training or not self.id_dropout:
            return code_B
        return code_B * (torch.rand(code_B.shape) >= self.id_dropout)


class NcfNet(_IdNet):
    """NCF: one layer over both embeddings and the columns."""

    def __init__(self, n_users: int, n_tracks: int, width: int, recipe: NcfRecipe) -> None:
        super().__init__(recipe.id_dropout)
        self.user, self.track = embedding(n_users, recipe.embedding), embedding(n_tracks, recipe.embedding)
        self.layers = nn.Sequential(
            nn.Linear(2 * recipe.embedding + width, recipe.units),
            nn.ReLU(),
            nn.Dropout(recipe.dropout),
            nn.Linear(recipe.units, 1),
        )

    def forward(self, user_B: Tensor, track_B: Tensor, x_BG: Tensor) -> Tensor:
        """Return the log odds, (B,)."""
        user_BD, track_BD = self.user(self.drop_ids(user_B)), self.track(self.drop_ids(track_B))
        logit_B: Tensor = self.layers(torch.cat([user_BD, track_BD, x_BG], dim=1)).squeeze(1)
        return logit_B


class NeuMfNet(_IdNet):
    """NeuMF: a product of two embeddings beside a layer over two more embeddings and the columns."""

    def __init__(self, n_users: int, n_tracks: int, width: int, recipe: NeuMfRecipe) -> None:
        super().__init__(recipe.id_dropout)
        self.gmf_user, self.gmf_track = embedding(n_users, recipe.gmf), embedding(n_tracks, recipe.gmf)
        self.mlp_user, self.mlp_track = embedding(n_users, recipe.mlp), embedding(n_tracks, recipe.mlp)
        self.layer = nn.Sequential(nn.Linear(2 * recipe.mlp + width, recipe.mlp), nn.ReLU(), nn.Dropout(recipe.dropout))
        self.last = nn.Linear(recipe.gmf + recipe.mlp, 1)

    def forward(self, user_B: Tensor, track_B: Tensor, x_BG: Tensor) -> Tensor:
        """Return the log odds, (B,)."""
        user_B, track_B = self.drop_ids(user_B), self.drop_ids(track_B)
        gmf_BD = self.gmf_user(user_B) * self.gmf_track(track_B)
        mlp_BD = self.layer(torch.cat([self.mlp_user(user_B), self.mlp_track(track_B), x_BG], dim=1))
        logit_B: Tensor = self.last(torch.cat([gmf_BD, mlp_BD], dim=1)).squeeze(1)
        return logit_B


class IdNetwork(SkipModel):
    """Base class of the models with embeddings of user and track."""

    Net: type[_IdNet]
    net: _IdNet

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe = self.recipe
        self.dense = Dense.learn(train, self.name)
        self.users = Vocabulary.learn(train.user_N, recipe.min_count)
        self.tracks = Vocabulary.learn(train.track_N, recipe.min_count)
        with seeded(seed):
            self.net = self._create_net()
            return self._train(train, valid, recipe, seed)

    def _partial_fit(self, new: Plays, valid: Plays, seed: int) -> Losses:
        with seeded(seed):
            return self._train(new, valid, incremental_schedule(self.recipe), seed)

    def _train(self, train: Plays, valid: Plays, recipe: Schedule, seed: int) -> Losses:
        inputs, sample = self.inputs(train, np.float16), valid.subsample(MAX_VALIDATION_PLAYS)
        valid_inputs = self.inputs(sample, np.float32)
        return train_net(
            self.net,
            lambda index_B: tuple(_tensor(part[index_B]) for part in inputs),
            train.labels(),
            lambda: log_loss(sample.labels(), self._predict(valid_inputs)),
            recipe,
            seed,
        )

    def inputs(self, plays: Plays, dtype: type = np.float32) -> tuple[np.ndarray, ...]:
        """Return the inputs of the network: codes of users (N,) and tracks (N,), and columns (N, G)."""
        return self.users.codes(plays.user_N), self.tracks.codes(plays.track_N), self.dense.columns(plays, dtype)

    def _create_net(self) -> _IdNet:
        return self.Net(len(self.users), len(self.tracks), self.dense.width, self.recipe)  # type: ignore[call-arg]

    def _predict(self, inputs: tuple[np.ndarray, ...]) -> NDArray[np.float64]:
        step, out_N = 1 << 14, np.empty(len(inputs[0]))
        with torch.inference_mode():
            for start in range(0, len(out_N), step):
                part = [_tensor(column[start : start + step]) for column in inputs]
                out_N[start : start + step] = sigmoid(self.net(*part).numpy())
        return out_N

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self._predict(self.inputs(plays))

    def _state(self) -> State:
        facts, arrays = self.dense.state()
        ids = {"users": self.users.values_V, "tracks": self.tracks.values_V}
        return facts, ids | add_prefix("dense", arrays) | add_prefix("net", weights(self.net))

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.users, self.tracks = Vocabulary(arrays["users"]), Vocabulary(arrays["tracks"])
        self.dense = Dense.restore(facts, select_prefix("dense", arrays), self.name)
        with seeded(0):
            self.net = self._create_net()
        set_weights(self.net, select_prefix("net", arrays))


def _tensor(column: np.ndarray) -> Tensor:
    dtype = np.float32 if column.dtype.kind == "f" else np.int64
    return torch.from_numpy(np.ascontiguousarray(column, dtype))


class Ncf(IdNetwork):
    """Neural collaborative filtering (He et al. 2017)."""

    name = "ncf"
    needs = Needs(ids=("user", "track"), numbers=("all",), categories=("all",))
    Recipe, Net = NcfRecipe, NcfNet


class NeuMf(IdNetwork):
    """Neural matrix factorisation (He et al. 2017)."""

    name = "neumf"
    needs = Needs(ids=("user", "track"), numbers=("all",), categories=("all",))
    Recipe, Net = NeuMfRecipe, NeuMfNet
