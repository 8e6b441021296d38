"""DropoutNet: content columns, loss, reconstruction of the latent model's scores and invalid input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from models.cold_start.input_vector import BLOCKS, SCALARS, Layout
from models.cold_start.methods import WarmListeners
from models.cold_start.methods.dropoutnet import (
    CONTENT_BLOCKS,
    DropoutNet,
    DropoutNetFull,
    content_columns,
    top_and_all_loss,
)
from tests.helpers.method_recipes import dropoutnet_recipe

D, N, U = 4, 60, 300
LAYOUT = Layout(D)
SMALL = dropoutnet_recipe(hidden=(32, 16), rank=8, epochs=40, learning_rate=0.1, batch_users=32, batch_tracks=N)


@pytest.fixture(scope="module")
def warm() -> WarmListeners:
    """Users and tracks at random points; a user's country block is a noisy copy of the user's vector."""
    rng = np.random.default_rng(0)
    user, track = (rng.standard_normal((n, D)).astype(np.float32) for n in (U, N))
    x = np.zeros((U, LAYOUT.size), np.float32)
    x[:, LAYOUT.block("country")] = user + 0.1 * rng.standard_normal((U, D))
    x[:, LAYOUT.block("skipped_songs")] = rng.standard_normal((U, D))
    heard = csr_array((user @ track.T > 1).astype(np.float32))
    none = np.zeros(0, np.int32)
    return WarmListeners(x, user, track, heard, np.zeros(U, np.int32), np.zeros((3, D), np.float32), none.reshape(3, 0))


def test_content_excludes_skips_and_bans() -> None:
    names = np.array(LAYOUT.names())[content_columns(LAYOUT)]
    assert len(names) == len(set(names)) == 14 * D + 13
    assert not any("skipped" in name or "banned" in name for name in names)
    assert len(CONTENT_BLOCKS) == len(BLOCKS) - 6
    assert {"age_value", "nb_streamed_songs", "nb_search_playlists"} <= set(names)
    assert len(content_columns(Layout(128))) == 1805
    assert sum("skipped" in name or "banned" in name for name in SCALARS) == 6


def test_loss_equals_a_manual_calculation() -> None:
    target = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    score = torch.tensor([[1.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    # The best of three tracks is the first for one user and the third for the other: squared errors 4 and 0.
    # The six squared errors are 4 + 0 + 9 + 0 + 1 + 0.
    assert float(top_and_all_loss(score, target)) == pytest.approx((4 / 2 + 14 / 6) / 2)


def test_loss_top_part_is_five_percent_of_the_tracks() -> None:
    target = torch.arange(100.0)[None]
    score = target.clone()
    score[0, 95:] += 1  # each of the best five has an error of one
    assert float(top_and_all_loss(score, target)) == pytest.approx((1 + 0.05) / 2)


def test_fit_reproduces_the_scores_of_the_latent_model(warm) -> None:
    losses: list[float] = []
    net = DropoutNet(warm, replace(SMALL, dropout=0), 1, lambda epoch, loss: losses.append(loss))
    assert len(losses) == SMALL.epochs
    assert losses[-1] < 0.2 * losses[0]
    wanted = warm.user_UD @ warm.track_ND.T
    predicted = net.warm_users(warm.x_UF) @ net.track_NR.T
    assert np.corrcoef(wanted.ravel(), predicted.ravel())[0, 1] > 0.95


def test_dropout_improves_predictions_without_a_preference(warm) -> None:
    wanted = warm.user_UD @ warm.track_ND.T
    x = warm.x_UF.copy()
    # With the added noise, the country block is less informative than a preference.
    x[:, LAYOUT.block("country")] += np.random.default_rng(1).standard_normal((U, D))

    def fits(dropout: float) -> float:
        net = DropoutNet(replace(warm, x_UF=x), replace(SMALL, dropout=dropout), 1)
        return float(np.corrcoef(wanted.ravel(), (net.cold_users(x) @ net.track_NR.T).ravel())[0, 1])

    assert fits(0.5) > 0.6 > 0.3 > fits(0)


def test_skips_and_bans_do_not_change_recommendations(warm) -> None:
    method = DropoutNetFull(DropoutNet(warm, replace(SMALL, epochs=1)))
    x = warm.x_UF[:20].copy()
    before = method.recommend(x, 9)
    x[:, LAYOUT.block("skipped_songs")] = 7
    x[:, LAYOUT.block("banned_albums")] = 7
    x[:, LAYOUT.scalar("nb_banned_albums")] = 7
    np.testing.assert_array_equal(method.recommend(x, 9), before)


def test_training_does_not_change_the_global_torch_generator(warm) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    DropoutNet(warm, replace(SMALL, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_users_and_tracks_without_a_vector(warm) -> None:
    user, track = warm.user_UD.copy(), warm.track_ND.copy()
    user[::3] = 0
    track[5] = 0
    net = DropoutNet(replace(warm, user_UD=user, track_ND=track), replace(SMALL, epochs=2))
    assert np.isfinite(net.warm_users(warm.x_UF)).all()
    assert np.isfinite(net.track_NR).all()
    # A user without a vector gets the output of a cold listener.
    np.testing.assert_array_equal(net.warm_users(warm.x_UF)[::3], net.cold_users(warm.x_UF[::3]))


def test_invalid_training_data_raises(warm) -> None:
    with pytest.raises(ValueError, match="at least 2 users and 2 tracks with a vector, got 0 and 60"):
        DropoutNet(replace(warm, user_UD=np.zeros_like(warm.user_UD)), SMALL)
    with pytest.raises(ValueError, match="nothing to train on"):
        DropoutNet(replace(warm, user_UD=np.ones((U, D), np.float32), track_ND=np.ones((N, D), np.float32)), SMALL)
    with pytest.raises(ValueError, match=r"x must be \(300, 99\), got \(300, 98\)"):
        DropoutNet(replace(warm, x_UF=warm.x_UF[:, 1:]), SMALL)
    broken = warm.x_UF.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="dropoutnet: x: column 3 contains NaN"):
        DropoutNet(replace(warm, x_UF=broken), SMALL)
    with pytest.raises(ValueError, match=r"dropoutnet\.learning_rate: 1e\+30 is too high: the loss is nan"):
        DropoutNet(warm, replace(SMALL, learning_rate=1e30))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", (3, 0)),
        ("rank", 0),
        ("dropout", 1.0),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("batch_users", 1),
        ("batch_tracks", 1),
    ],
)
def test_out_of_range_setting_raises_with_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"dropoutnet.{field}: "):
        replace(SMALL, **{field: value})
