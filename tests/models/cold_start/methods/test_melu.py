"""MeLU: the inner step equals a plain loop, affinities equal the network's outputs, draws and invalid input."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from models.cold_start.input_vector import Layout
from models.cold_start.methods import WarmListeners
from models.cold_start.methods.melu import (
    Melu,
    _draw_tracks,
    after_step,
    concatenate_pairs,
    dense_layers,
    inner_step,
    top_k_of_vector,
)
from tests.helpers.method_recipes import melu_recipe

D, N, U = 4, 50, 200
LAYOUT = Layout(D)
STREAMS = LAYOUT.block("streamed_songs")
SMALL = melu_recipe(embedding_dim=6, hidden=5, epochs=2, learning_rate=1e-2, batch_users=64, support=4, query=6)


@pytest.fixture(scope="module")
def warm() -> WarmListeners:
    rng = np.random.default_rng(0)
    user, track = (rng.standard_normal((n, D)).astype(np.float32) for n in (U, N))
    x = np.zeros((U, LAYOUT.size), np.float32)
    x[:, LAYOUT.block("country")] = user
    x[: U // 2, STREAMS] = user[: U // 2]
    heard = csr_array((user @ track.T > 1).astype(np.float32))
    return WarmListeners(
        x, user, track, heard, np.zeros(U, np.int32), np.zeros((3, D), np.float32), np.zeros((3, 5), np.int32)
    )


def test_inner_step_and_its_gradient_equal_a_plain_loop() -> None:
    torch.manual_seed(0)
    rate = 0.1
    dense = dense_layers(3, 4)
    user_BE = torch.randn(3, 3, requires_grad=True)
    support_BSE, query_BQE = torch.randn(3, 4, 3, requires_grad=True), torch.randn(3, 2, 3)
    wanted_S, wanted_Q = torch.tensor([1.0, 0, 1, 0]), torch.tensor([1.0, 0])

    taken = inner_step(dense, concatenate_pairs(user_BE, support_BSE), wanted_S)
    found_BQ = after_step(dense, concatenate_pairs(user_BE, query_BQE), taken, rate)
    losses_B = (found_BQ - wanted_Q).square().mean(dim=1)
    inputs = [user_BE, support_BSE, *dense.parameters()]
    slopes = torch.autograd.grad(losses_B.mean(), inputs)

    plain = []
    for b in range(3):

        def forward(weights, tracks, b=b):
            w1, b1, w2, b2, w3, b3 = weights
            joint = torch.cat([user_BE[b].expand(len(tracks), 3), tracks], 1)
            hidden = torch.relu(torch.relu(joint @ w1.T + b1) @ w2.T + b2)
            return (hidden @ w3.T + b3)[:, 0]

        weights = list(dense.parameters())
        loss = (forward(weights, support_BSE[b]) - wanted_S).square().mean()
        slopes_b = torch.autograd.grad(loss, weights, create_graph=True)
        own = [weight - rate * one for weight, one in zip(weights, slopes_b, strict=True)]
        plain.append((forward(own, query_BQE[b]) - wanted_Q).square().mean())
    np.testing.assert_allclose(losses_B.detach().numpy(), torch.stack(plain).detach().numpy(), rtol=1e-5)
    for computed, wanted in zip(slopes, torch.autograd.grad(torch.stack(plain).mean(), inputs), strict=True):
        np.testing.assert_allclose(computed.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [5e-6, 0.3])
def test_affinities_equal_network_outputs_after_the_inner_step(warm, rate: float) -> None:
    net = Melu(warm, replace(SMALL, inner_rate=rate))
    listeners = [0, 1, U - 1]  # two with streams, one without
    computed = np.stack(list(net.affinities(warm.x_UF[listeners])))
    scaled = (warm.track_ND - warm.track_ND.mean(axis=0)) / warm.track_ND.std(axis=0)
    track_NE = net.track(torch.from_numpy(scaled).double())
    streams = (warm.x_UF[listeners, STREAMS] - warm.track_ND.mean(axis=0)) / warm.track_ND.std(axis=0)
    for row, listener in enumerate(listeners):
        user_E = net.user(torch.from_numpy(net._user_scale(warm.x_UF[[listener]])).double())[0]
        dense = copy.deepcopy(net.dense).requires_grad_(True)
        before = _network_outputs(dense, user_E, track_NE)
        if warm.x_UF[listener, STREAMS].any():
            support_E = net.track(torch.from_numpy(streams[row : row + 1]).double())
            loss = (_network_outputs(dense, user_E, support_E) - 1).square().mean()
            for parameter, slope in zip(
                dense.parameters(), torch.autograd.grad(loss, list(dense.parameters())), strict=True
            ):
                parameter.data -= rate * slope
        after = _network_outputs(dense, user_E, track_NE)
        np.testing.assert_allclose(computed[row], after.detach().numpy(), atol=1e-5)
        if rate == 0.3:
            moved = float((after - before).detach().abs().max())
            assert (moved > 1e-2) == (listener != U - 1)


def _network_outputs(dense: torch.nn.Module, user_E: torch.Tensor, track_SE: torch.Tensor) -> torch.Tensor:
    return dense(torch.cat([user_E.expand(len(track_SE), -1), track_SE], 1))[:, 0]


def test_fit_separates_the_tastes_of_users(warm) -> None:
    losses: list[float] = []
    net = Melu(warm, replace(SMALL, hidden=16, epochs=30, batch_users=32), 1, lambda epoch, loss: losses.append(loss))
    assert len(losses) == 30
    assert losses[-1] < 0.6 * losses[0]
    heard = warm.heard_UN.toarray() > 0
    scores = np.stack(list(net.affinities(warm.x_UF)))
    assert scores[heard].mean() - scores[~heard].mean() > 0.4


def test_draws_alternate_streamed_and_other_tracks_and_cover_every_track(warm) -> None:
    heard = csr_array(np.array([[0, 1, 1, 0, 0, 1, 0, 0]], np.float32))
    rng = np.random.default_rng(0)
    drawn = np.stack([_draw_tracks(heard, 0, 6, rng) for _ in range(200)])
    assert set(drawn[:, ::2].ravel().tolist()) == {1, 2, 5}
    assert all(len(set(row)) == 3 for row in drawn[:, ::2].tolist())
    counts = np.bincount(drawn[:, 1::2].ravel(), minlength=8)
    assert set(np.flatnonzero(counts).tolist()) == {0, 3, 4, 6, 7}
    assert counts[counts > 0].min() > 80  # the expected count is 120 each
    few = _draw_tracks(heard, 0, 10, rng)[::2]
    assert set(few.tolist()) == {1, 2, 5}


def test_top_k_breaks_ties_by_index() -> None:
    scores = np.array([1, 3, 2, 3, 2, 2, 0], np.float32)
    assert top_k_of_vector(scores, 1).tolist() == [1]
    assert top_k_of_vector(scores, 4).tolist() == [1, 3, 2, 4]
    assert top_k_of_vector(scores, 7).tolist() == [1, 3, 2, 4, 5, 0, 6]


def test_training_does_not_change_the_global_torch_generator(warm) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    Melu(warm, SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_invalid_training_data_raises(warm) -> None:
    nothing = csr_array((U, N), dtype=np.float32)
    with pytest.raises(ValueError, match="streamed some but not all"):
        Melu(replace(warm, heard_UN=nothing), SMALL)
    with pytest.raises(ValueError, match="streamed some but not all"):
        Melu(replace(warm, heard_UN=csr_array(np.ones((U, N), np.float32))), SMALL)
    with pytest.raises(ValueError, match=r"x must be \(U, 99\), got \(200, 98\)"):
        Melu(replace(warm, x_UF=warm.x_UF[:, 1:]), SMALL)
    with pytest.raises(ValueError, match=r"heard must be \(200, 50\), got \(200, 49\)"):
        Melu(replace(warm, heard_UN=warm.heard_UN[:, :-1]), SMALL)
    broken = warm.track_ND.copy()
    broken[7, 3] = np.inf
    with pytest.raises(ValueError, match="melu: track vectors: row 7 contains NaN, infinity"):
        Melu(replace(warm, track_ND=broken), SMALL)
    with pytest.raises(ValueError, match=r"melu\.learning_rate: 1e\+30 is too high"):
        Melu(warm, replace(SMALL, learning_rate=1e30, epochs=3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embedding_dim", 0),
        ("hidden", 0),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("inner_rate", -1.0),
        ("batch_users", 0),
        ("support", 3),
        ("query", 0),
    ],
)
def test_out_of_range_setting_raises_with_its_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"melu.{field}: "):
        replace(SMALL, **{field: value})
