"""Session model: a GRU over the user's earlier plays, with features relative to the query track.

Shapes   B plays, H positions of a history, S features of an earlier play, G columns of a play
Source   Hidasi et al. 2016 for a GRU over plays; features relative to the query track as in the target attention of
         Zhou et al. 2018; section 6.2 of the DSG17 report proposes such a model
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
from models.skip.data.play_history import COLUMNS, HISTORY_FEATURES, QUERY_COLUMNS, Log, history_features
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Dense
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
class SessionRecipe(Schedule):
    """Hyperparameters of the session model.

    Attributes:
        length: Largest number of earlier plays.
        hidden: Width of the GRU and of the layer above it.
        dropout: Dropout of the layer.
    """

    length: int = 20
    epoch_plays: int = 500_000
    epochs: int = 8
    hidden: int = 32
    dropout: float = 0.3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1 or self.hidden < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"session_gru: length and hidden must be at least 1, dropout in [0, 1), got {self}")


class SessionNet(nn.Module):
    """Network from history features (B, H, S) and columns (B, G) to log odds (B,).

    Padding at the front of a short history does not change the state.
    """

    def __init__(self, width: int, recipe: SessionRecipe) -> None:
        super().__init__()
        self.cell = nn.GRUCell(len(HISTORY_FEATURES), recipe.hidden)
        self.layers = nn.Sequential(
            nn.Linear(recipe.hidden + width, recipe.hidden),
            nn.ReLU(),
            nn.Dropout(recipe.dropout),
            nn.Linear(recipe.hidden, 1),
        )

    def forward(self, history_BHS: Tensor, x_BG: Tensor) -> Tensor:
        """Return the log odds, (B,)."""
        state_BD = history_BHS.new_zeros((history_BHS.shape[0], self.cell.hidden_size))
        for h in range(history_BHS.shape[1]):
            earlier_BS = history_BHS[:, h]
            state_BD = torch.where(earlier_BS[:, -1:] > 0, self.cell(earlier_BS, state_BD).to(state_BD.dtype), state_BD)
        logit_B: Tensor = self.layers(torch.cat([state_BD, x_BG], dim=1)).squeeze(1)
        return logit_B


class SessionGru(SkipModel):
    """GRU over earlier plays, described by outcome, age, and ids shared with the query track; it has no embeddings.

    fit() stores the plays of training and validation as history; observe() adds later ones.
    """

    name = "session_gru"
    needs = Needs(
        ids=("user", "track", "artist", "album", "genre"), numbers=("all",), categories=("all",), history=True
    )
    Recipe = SessionRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        self.dense = Dense.learn(train, self.name)
        self.log = Log.from_plays(train).union(Log.from_plays(valid))
        with seeded(seed):
            self.net = SessionNet(self.dense.width, self.recipe)
            return self._train(train, valid, self.recipe, seed)

    def _partial_fit(self, new: Plays, valid: Plays, seed: int) -> Losses:
        with seeded(seed):
            return self._train(new, valid, incremental_schedule(self.recipe), seed)

    def _train(self, train: Plays, valid: Plays, recipe: Schedule, seed: int) -> Losses:
        x_NG, sample = self.dense.columns(train, np.float16), valid.subsample(MAX_VALIDATION_PLAYS)
        ids = {name: getattr(train, f"{name}_N") for name in QUERY_COLUMNS}

        def batch(index_B: NDArray[np.int64]) -> tuple[Tensor, ...]:
            history_BHS = self.history({name: column[index_B] for name, column in ids.items()})
            return torch.from_numpy(history_BHS), torch.from_numpy(x_NG[index_B].astype(np.float32))

        return train_net(
            self.net,
            batch,
            train.labels(),
            lambda: log_loss(sample.labels(), self._predict_in_chunks(sample)),
            recipe,
            seed,
        )

    def history(self, ids: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the history features of query plays, (B, H, S)."""
        return history_features(self.log, ids, self.recipe.length)

    def _observe(self, plays: Plays) -> None:
        self.log = self.log.union(Log.from_plays(plays))

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        step, out_N = 1 << 14, np.empty(len(plays))
        for start in range(0, len(plays), step):
            part = plays.rows(slice(start, start + step))
            inputs = self.inputs(part)
            with torch.inference_mode():
                out_N[start : start + step] = sigmoid(self.net(*map(torch.from_numpy, inputs)).numpy())
        return out_N

    def inputs(self, plays: Plays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the inputs of the network: history features (N, H, S) and columns (N, G)."""
        ids = {name: getattr(plays, f"{name}_N") for name in QUERY_COLUMNS}
        return self.history(ids), self.dense.columns(plays).astype(np.float32)

    def _state(self) -> State:
        facts, arrays = self.dense.state()
        parts = add_prefix("dense", arrays) | add_prefix("net", weights(self.net)) | add_prefix("log", self.log.columns)
        return facts, parts

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.dense = Dense.restore(facts, select_prefix("dense", arrays), self.name)
        columns = select_prefix("log", arrays)
        self.log = Log({name: columns[name] for name in COLUMNS})
        with seeded(0):
            self.net = SessionNet(self.dense.width, self.recipe)
        set_weights(self.net, select_prefix("net", arrays))
