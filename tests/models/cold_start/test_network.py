"""The network: size, training, repeatability, batches, modes, save and load, invalid input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models import mixed_precision
from models.cold_start.input_vector import SCALARS
from models.cold_start.network import (
    CODE_RECIPE,
    PAPER_RECIPE,
    ColdStartNet,
    NetworkRecipe,
    _batches,
    fit,
    from_state_arrays,
    predict,
    state_arrays,
)
from tests.helpers.method_recipes import network_recipe

SMALL = network_recipe(hidden=(32, 16), learning_rate=1e-2, epochs=12, batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def task() -> tuple[np.ndarray, np.ndarray]:
    """Inputs with predictable targets: unit vectors in the plane of two directions of x."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 20)).astype(np.float32)
    y = np.tanh(x @ rng.standard_normal((20, 6))).astype(np.float32)
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("d_in", "d_out", "n"), [(2579, 128, 1_240_028), (5139, 256, 2_289_756)])
def test_parameter_counts_equal_those_of_the_paper(d_in: int, d_out: int, n: int) -> None:
    net = ColdStartNet(d_in, d_out, (400, 300, 200), normalise_output=True, log_counts=False)
    assert net.n_parameters == n
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "ReLU", "BatchNorm1d"] * 3 + ["Linear"]


def mean_cosine(predicted: np.ndarray, y: np.ndarray) -> float:
    lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(y, axis=1)
    return float(((predicted * y).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())


@pytest.fixture(scope="module")
def tastes() -> tuple[np.ndarray, np.ndarray]:
    """Inputs of listeners of twelve tastes, and unit vectors as wide as the paper's, each near that of its taste."""
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 12, 4400)
    x = rng.standard_normal((12, 24))[taste] + 0.5 * rng.standard_normal((4400, 24))
    y = rng.standard_normal((12, 128))[taste] + 0.5 * rng.standard_normal((4400, 128))
    return x.astype(np.float32), (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def fit_recipe(recipe: NetworkRecipe, tastes: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return mean cosine and mean squared error for listeners that were not trained on.

    Steps times learning rate is as at the size of the paper, which has 137 batches an epoch; here are 1 280 steps.
    """
    rate = recipe.learning_rate * 137 * recipe.epochs / 1280
    short = replace(recipe, learning_rate=rate, epochs=10, hidden=(64, 48, 32), batch_size=32, device="cpu")
    x, y = tastes
    predicted = predict(fit(x[:4096], y[:4096], short, 1), x[4096:])
    return mean_cosine(predicted, y[4096:]), float(np.square(predicted - y[4096:]).mean())


@pytest.mark.parametrize("recipe", [PAPER_RECIPE, CODE_RECIPE], ids=["paper", "code"])
def test_both_recipes_learn(tastes, recipe: NetworkRecipe) -> None:
    y = tastes[1]
    mean_vector = np.broadcast_to(y[:4096].mean(axis=0), y[4096:].shape)
    cosine, error = fit_recipe(recipe, tastes)
    assert cosine > 0.8 > 2 * mean_cosine(mean_vector, y[4096:])
    assert error < 0.4 * np.square(y[4096:]).mean(), "not much better than the zero vector"


def test_plain_descent_learns_nothing_at_the_rate_of_the_paper(tastes) -> None:
    """The reason why PAPER_RECIPE uses Adam: the text of the paper alone gives a network worse than the zero vector."""
    cosine, error = fit_recipe(replace(PAPER_RECIPE, optimiser="sgd"), tastes)
    assert cosine < 0.3
    assert error > 10 * np.square(tastes[1]).mean()


def test_fit_reports_the_loss_of_training_and_validation(task) -> None:
    x, y = task
    losses: list[tuple[int, float, float | None]] = []
    net = fit(x[:320], y[:320], SMALL, 1, lambda *row: losses.append(row), validation=(x[320:], y[320:]))
    assert [row[0] for row in losses] == list(range(12))
    assert losses[-1][1] < 0.5 * losses[0][1]
    held_out_loss = losses[-1][2]
    assert held_out_loss is not None
    assert held_out_loss == pytest.approx(np.square(predict(net, x[320:]) - y[320:]).mean(), rel=1e-5)
    assert held_out_loss < 0.7 * np.square(y[320:] - y[:320].mean(axis=0)).mean()


@pytest.mark.skipif(not mixed_precision.has_bfloat16(), reason="this CPU has no products of bfloat16")
def test_bfloat16_reaches_a_similar_loss_and_stores_float32(task, monkeypatch) -> None:
    short, losses = fit(*task, SMALL, 1), {}
    monkeypatch.setattr(mixed_precision, "has_bfloat16", lambda: False)
    whole = fit(*task, SMALL, 1)
    assert any((state_arrays(short)[name] != state_arrays(whole)[name]).any() for name in state_arrays(whole))
    for name, net in (("short", short), ("whole", whole)):
        assert {array.dtype for array in state_arrays(net).values()} == {np.dtype(np.float32), np.dtype(np.int64)}
        losses[name] = float(np.square(predict(net, task[0]) - task[1]).mean())
    assert losses["short"] == pytest.approx(losses["whole"], rel=0.05)


def test_logarithms_of_counts_and_a_flag_for_an_unknown_age(task) -> None:
    x = np.hstack([task[0], np.random.default_rng(1).integers(0, 90, (400, len(SCALARS)))]).astype(np.float32)
    x[::3, 20] = -1
    recipe = replace(SMALL, log_counts=True)
    net = fit(x, task[1], recipe, 1)
    again = from_state_arrays(state_arrays(net), normalise_output=True, log_counts=True)
    np.testing.assert_array_equal(predict(net, x), predict(again, x))
    by_hand = np.hstack([x[:, :20], np.maximum(x[:, 20:21], 0), x[:, 20:21] < 0, np.log1p(x[:, 21:])])
    plain = from_state_arrays(state_arrays(net), normalise_output=True, log_counts=False)
    np.testing.assert_allclose(predict(net, x), predict(plain, by_hand.astype(np.float32)), atol=1e-6)
    with pytest.raises(ValueError, match="input rows end with 19 scalars, got d_in 19"):
        ColdStartNet(19, 4, (8,), normalise_output=True, log_counts=True)


def test_output_has_unit_length_only_if_normalised(task) -> None:
    x, y = task
    unit = predict(fit(x, y, replace(SMALL, epochs=1)), x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    raw = predict(fit(x, y, replace(SMALL, epochs=1, normalise_output=False)), x)
    assert np.linalg.norm(raw, axis=1).std() > 0.01


@pytest.mark.parametrize("recipe", [SMALL, replace(SMALL, optimiser="sgd", drop_last=False)])
def test_repeated_fits_are_equal(task, recipe: NetworkRecipe) -> None:
    x, y = task
    recipe = replace(recipe, epochs=3)
    torch.manual_seed(11)
    one = state_arrays(fit(x, y, recipe, seed=4))
    here = torch.random.get_rng_state()
    torch.manual_seed(12)
    two = state_arrays(fit(x, y, recipe, seed=4))
    torch.manual_seed(11)
    assert torch.equal(torch.random.get_rng_state(), here)  # the global generator does not change
    other = state_arrays(fit(x, y, recipe, seed=5))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_repeated_fits_are_equal_for_a_number_of_threads_and_a_precision(task, threads, bfloat16, monkeypatch) -> None:
    monkeypatch.setattr("models.mixed_precision.has_bfloat16", lambda: bfloat16)
    x, y = task
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, two = (state_arrays(fit(x, y, replace(SMALL, epochs=2), seed=4)) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_validation_and_callbacks_do_not_change_the_weights(task) -> None:
    x, y = task
    recipe = replace(SMALL, epochs=3)
    bare = state_arrays(fit(x, y, recipe, 1))
    watched = state_arrays(fit(x, y, recipe, 1, lambda *_: None, (x[:50] * 9, y[:50])))
    assert all(np.array_equal(bare[name], watched[name]) for name in bare)


def test_fit_does_not_change_read_only_inputs(task, recwarn) -> None:
    x, y = task[0].copy(), task[1].copy()
    x.flags.writeable = y.flags.writeable = False
    fit(x, y, replace(SMALL, epochs=1), validation=(x, y))
    np.testing.assert_array_equal(x, task[0])
    assert not recwarn.list


@pytest.mark.parametrize("n", [2, 31, 32, 33, 64, 65, 66, 97])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_have_at_least_two_rows_and_cover_the_data(n: int, drop_last: bool) -> None:
    recipe = replace(SMALL, drop_last=drop_last)
    sizes = [len(b) for b in _batches(torch.arange(n), recipe)]
    assert min(sizes) >= 2
    seen = torch.cat(list(_batches(torch.arange(n), recipe)))
    if drop_last and n > 32:
        assert set(sizes) == {32}
        assert len(seen) == n - n % 32
    else:
        assert len(seen) == n
    assert torch.equal(seen, torch.arange(len(seen)))


def test_predict_does_not_change_the_mode_or_the_statistics(task) -> None:
    x, _ = task
    net = ColdStartNet(20, 6, (8,), normalise_output=True, log_counts=False)
    before = state_arrays(net)
    whole = predict(net, x)
    assert net.training
    np.testing.assert_allclose(predict(net, x, batch=7), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict(net, x[5:6])[0], whole[5], rtol=1e-5, atol=1e-6)
    assert whole.dtype == np.float32
    assert predict(net, x[:0]).shape == (0, 6)
    assert not predict(net.eval(), x).flags.f_contiguous
    assert not net.training
    assert all(np.array_equal(before[name], a) for name, a in state_arrays(net).items())


def test_npz_round_trip_preserves_predictions(task, tmp_path) -> None:
    x, y = task
    net = fit(x, y, replace(SMALL, epochs=2))
    np.savez(tmp_path / "net.npz", **state_arrays(net))
    with np.load(tmp_path / "net.npz", allow_pickle=False) as arrays:
        back = from_state_arrays(dict(arrays), normalise_output=True, log_counts=False)
    assert not back.training
    np.testing.assert_array_equal(predict(back, x), predict(net, x))


def test_state_arrays_are_copies(task) -> None:
    net = fit(*task, replace(SMALL, epochs=1))
    state_arrays(net)["layers.0.weight"][:] = 0
    assert state_arrays(net)["layers.0.weight"].any()


def test_invalid_state_arrays_raise(task) -> None:
    arrays = state_arrays(fit(*task, replace(SMALL, epochs=1)))
    with pytest.raises(ValueError, match="no weights"):
        from_state_arrays({}, normalise_output=True, log_counts=False)
    with pytest.raises(ValueError, match=r"layers\.1?\d?\.?.*bias"):
        from_state_arrays({name: a for name, a in arrays.items() if name != "layers.0.bias"}, True, False)
    with pytest.raises(ValueError, match="size mismatch"):
        from_state_arrays({**arrays, "layers.0.bias": np.zeros(3, np.float32)}, True, False)


def with_bad_value(x: np.ndarray, row: int, value: float) -> np.ndarray:
    x = x.copy()
    x[row, 3] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_raise_with_their_row(task, value: float) -> None:
    x, y = task
    with pytest.raises(ValueError, match="x row 17 contains NaN or infinity"):
        fit(with_bad_value(x, 17, value), y, SMALL)
    with pytest.raises(ValueError, match="y row 9 contains"):
        fit(x, with_bad_value(y, 9, value), SMALL)
    with pytest.raises(ValueError, match="validation x row 0"):
        fit(x, y, SMALL, validation=(with_bad_value(x, 0, value), y))
    with pytest.raises(ValueError, match="x row 5"):
        predict(ColdStartNet(20, 6, (8,), normalise_output=True, log_counts=False), with_bad_value(x, 5, value))


def test_wrong_shapes_raise(task) -> None:
    x, y = task
    with pytest.raises(ValueError, match="x has 400 rows and y 399"):
        fit(x, y[:-1], SMALL)
    with pytest.raises(ValueError, match="at least 2 users"):
        fit(x[:1], y[:1], SMALL)
    with pytest.raises(ValueError, match="must be a matrix"):
        fit(x[0], y, SMALL)
    with pytest.raises(ValueError, match="as wide as x and y"):
        fit(x, y, SMALL, validation=(x[:, :3], y))
    with pytest.raises(ValueError, match="must have 20 columns, got 6"):
        predict(ColdStartNet(20, 6, (8,), normalise_output=True, log_counts=False), y)


def test_diverging_loss_raises_with_the_learning_rate(task) -> None:
    x, y = task
    wild = replace(SMALL, optimiser="sgd", learning_rate=1e30, normalise_output=False)
    with pytest.raises(ValueError, match=r"network.learning_rate: 1e\+30 is too high"):
        fit(x, y, wild)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", (4, 0)),
        ("optimiser", "lion"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("epochs", 0),
        ("batch_size", 1),
        ("device", "tpu"),
    ],
)
def test_invalid_setting_raises_with_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"network\.{field}: .*got"):
        replace(CODE_RECIPE, **{field: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_raises(task) -> None:
    with pytest.raises(ValueError, match="torch finds no GPU"):
        fit(*task, replace(SMALL, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_and_cpu_predictions_are_close(task) -> None:
    x, y = task
    recipe = replace(SMALL, epochs=2)
    near = predict(fit(x, y, recipe), x)
    np.testing.assert_allclose(predict(fit(x, y, replace(recipe, device="cuda")), x), near, atol=0.02)
