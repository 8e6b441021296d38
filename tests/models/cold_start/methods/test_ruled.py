"""Lists of listeners with many first-day tracks, and of a small catalogue, where heard tracks are left out."""

import numpy as np
import pytest

from models.cold_start.input_vector import FirstDays
from models.cold_start.list_rules import ListRules, TrackFacts
from models.cold_start.methods import SemiPers
from models.cold_start.methods.ruled import ruled_lists
from models.cold_start.ragged import Ragged


@pytest.mark.parametrize(
    ("n_heard", "n_tracks", "k", "n_left"),
    [(151, 6000, 50, 50), (5000, 6000, 50, 50), (6000, 6000, 50, 0), (3, 10, 50, 7), (3, 10, 5, 5), (10, 10, 5, 0)],
)
def test_a_heavy_first_day_uses_up_a_ranking_and_popular_tracks_follow(n_heard, n_tracks, k, n_left):
    ids, length = 100 + np.arange(n_tracks), min(200, n_tracks)
    method = SemiPers(lambda x: x[:, :2], np.eye(2), np.tile(np.arange(length)[::-1], (2, 1)))
    streams = Ragged.from_lists([ids[:n_heard].tolist(), []])
    days = FirstDays(np.array(["FR", None], object), np.array([20, -1]), {"streamed_songs": streams})
    facts = TrackFacts.unknown(np.arange(n_tracks), np.arange(n_tracks))
    rules, unit = ListRules(heard="leave_out"), np.zeros((n_tracks, 2), np.float32)
    lists, ruled = ruled_lists(method, np.zeros((2, 59), np.float32), k, days, ids, facts, rules, unit)
    ranked = [*range(length - 1, n_heard - 1, -1), *range(max(n_heard, length), n_tracks)]
    for rows in (lists, ruled):
        assert rows.shape == (2, k)
        assert rows[0, :n_left].tolist() == ranked[:n_left]
        assert (rows[0, n_left:] >= n_tracks).all()  # places without a track
        assert rows[1, : min(k, n_tracks)].tolist() == [*range(length - 1, -1, -1)][:k]
