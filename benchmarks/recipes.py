"""Compare the recipes of the cold-start network with the training of the authors' published code, on the same files.

Task     a twentieth of the warm users is held out; each recipe is trained on the others in one space, and predicts the
         vectors of the held-out users. Synthetic files in the published format, or the published files themselves
Metric   mean cosine between predicted and true vector, and mean squared error; the mean vector and the zero vector are
         rows of the table
Peers    published: the facts of github.com/deezer/semi_perso_user_cold_start (model.py, model_training.py): Adam at
         1e-5, errors averaged over batch and dimension, output at unit length, float32, no dropout, last partial batch
         dropped, 130 epochs. It evaluates after its 11th epoch and does not return to training mode: from then on
         BatchNorm uses the running statistics
         code: CODE_RECIPE, whose BatchNorm is in training mode in all epochs
         paper: PAPER_RECIPE, section 3.2.3 with Adam
         paper, plain SGD: the text of the section, errors averaged over batch and dimension
         paper, plain SGD, summed: the same with errors summed over the dimension: a learning rate D times as high
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import Measurement, Peer, stopwatch

SPACE, SEED, HELD_OUT = "tt_svd", 7, 20
USERS, TRACKS, EPOCHS = 100_000, 50_000, None
QUICK_USERS, QUICK_TRACKS, QUICK_EPOCHS = 3_000, 2_000, 5
BOUND = 0.03  # largest difference between the cosines of the paper's recipe and of the published code
FROZEN_AFTER = 11  # epochs after which the published code stays in eval mode
PUBLISHED, CODE, PAPER = "published", "code", "paper"
PLAIN, SUMMED = "paper, plain SGD", "paper, plain SGD, summed"
Rows = tuple[np.ndarray, np.ndarray]


def read_rows(folder: str) -> tuple[Rows, Rows]:
    """Return input rows and vectors of the warm users: those for training, and those that are held out."""
    from jobs.ingest.deezer.adapter import open_folder

    data = open_folder(Path(folder), SPACE)
    x_UF, y_UD = data.parts["train"].x_BF, data.user_UD
    is_held_out = np.zeros(len(y_UD), bool)
    is_held_out[np.random.default_rng(SEED).permutation(len(y_UD))[: max(2, len(y_UD) // HELD_OUT)]] = True
    return (np.array(x_UF[~is_held_out]), y_UD[~is_held_out]), (np.array(x_UF[is_held_out]), y_UD[is_held_out])


def quality(predicted_BD: np.ndarray, y_BD: np.ndarray) -> dict[str, float]:
    """Return the mean cosine of predicted and true vectors (B, D), 0 for a zero vector, and the mean squared error."""
    lengths_B = np.linalg.norm(predicted_BD, axis=1) * np.linalg.norm(y_BD, axis=1)
    cosine_B = (predicted_BD * y_BD).sum(axis=1) / np.maximum(lengths_B, 1e-12)
    return {"mean cosine": float(cosine_B.mean()), "mean squared error": float(np.square(predicted_BD - y_BD).mean())}


def constant(folder: str, zero: bool) -> Measurement:
    """Measure the zero vector, or the mean vector of the users for training."""
    (_, y_UD), (_, target_BD) = read_rows(folder)
    mean_D = np.zeros(y_UD.shape[1], np.float32) if zero else y_UD.mean(axis=0)
    return Measurement([0.0], quality(np.broadcast_to(mean_D, target_BD.shape), target_BD))


def recipe(folder: str, name: str, epochs: int | None) -> Measurement:
    """Measure a recipe of models/cold_start/network.py.

    Args:
        folder: arrays of the space.
        name: CODE, PAPER, PLAIN or SUMMED.
        epochs: number of epochs; None: that of the recipe.
    """
    from models.cold_start.network import CODE_RECIPE, PAPER_RECIPE, fit, predict

    (x_UF, y_UD), (x_BF, y_BD) = read_rows(folder)
    plain = replace(PAPER_RECIPE, optimiser="sgd")
    summed = replace(plain, learning_rate=plain.learning_rate * y_UD.shape[1])
    recipe_of = {CODE: CODE_RECIPE, PAPER: PAPER_RECIPE, PLAIN: plain, SUMMED: summed}
    chosen = replace(recipe_of[name], device="cpu", epochs=epochs or recipe_of[name].epochs)
    clock = stopwatch()
    net = fit(x_UF, y_UD, chosen, SEED, on_epoch=lambda n, loss, _: log_epoch(name, n, loss))
    return Measurement([clock()], quality(predict(net, x_BF), y_BD))


def published(folder: str, epochs: int | None) -> Measurement:
    """Measure the training of the published code; `epochs` as in `recipe`."""
    import torch
    from torch import nn

    (x_UF, y_UD), (x_BF, y_BD) = read_rows(folder)
    x, y, batch = torch.from_numpy(x_UF), torch.from_numpy(y_UD), min(512, len(x_UF))
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for d_in, d_out in zip((x.shape[1], 400, 300), (400, 300, 200), strict=True):
        layers += [nn.Linear(d_in, d_out), nn.ReLU(), nn.BatchNorm1d(d_out)]
    net = nn.Sequential(*layers, nn.Linear(200, y.shape[1]))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)
    clock = stopwatch()
    for epoch in range(epochs or 130):
        net.train(epoch < FROZEN_AFTER)
        order, total = torch.randperm(len(x)), 0.0
        starts = range(0, len(x) - batch + 1, batch)
        for start in starts:
            rows = order[start : start + batch]
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(nn.functional.normalize(net(x[rows]), dim=1), y[rows])
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
        log_epoch(PUBLISHED, epoch, total / len(starts))
    seconds = clock()
    with torch.inference_mode():
        predicted = nn.functional.normalize(net.eval()(torch.from_numpy(x_BF)), dim=1).numpy()
    return Measurement([seconds], quality(predicted, y_BD))


def log_epoch(name: str, epoch: int, loss: float) -> None:
    """Write a progress line after every tenth epoch."""
    if epoch % 10 == 9:
        harness.log(f"    {name}: epoch {epoch + 1}, mean squared error {loss:.6f}")


def main() -> None:
    """Train every recipe on one dataset, then check the target."""
    from jobs.ingest.deezer import generate
    from jobs.ingest.deezer.adapter import convert
    from jobs.ingest.deezer.files import inspect

    data_help = "the paper's public files (default: synthetic files of the same format)"
    arguments = harness.parse_arguments("recipes", (__doc__ or "").splitlines()[0], data_help)
    users, tracks, epochs = (QUICK_USERS, QUICK_TRACKS, QUICK_EPOCHS) if arguments.quick else (USERS, TRACKS, EPOCHS)
    with tempfile.TemporaryDirectory() as name:
        data, folder = arguments.data or Path(name) / "data", Path(name) / SPACE
        if arguments.data is None:
            generate.run(data, generate.GeneratorOptions(users, tracks, spaces=(SPACE,)))
        folder.mkdir()
        facts = convert(inspect(data, SPACE), folder)
        write_manifest(folder, facts)
        peers = [
            Peer("zero vector", constant, {"folder": str(folder), "zero": True}, 1),
            Peer("mean vector", constant, {"folder": str(folder), "zero": False}, 1),
            Peer(PUBLISHED, published, {"folder": str(folder), "epochs": epochs}, 1),
            *(
                Peer(recipe_name, recipe, {"folder": str(folder), "name": recipe_name, "epochs": epochs}, 1)
                for recipe_name in (CODE, PAPER, PLAIN, SUMMED)
            ),
        ]
        records = harness.compare(peers)
    cosine = {name: record["quality"]["mean cosine"] for name, record in records.items()}
    files = "synthetic files in the published format" if arguments.data is None else "the files of --data"
    one = {
        "case": f"recipes of the network, {SPACE}",
        "about": f"{files}: {facts['train']} warm users, one in {HELD_OUT} of them held out and evaluated; seconds are "
        "those of the training.",
        "peers": records,
        "ratios": {},
    }
    gap = cosine[PUBLISHED] - cosine[PAPER]
    promises = [
        harness.promise("mean cosine of the published code minus that of the paper's recipe", BOUND, gap, at_most=True)
    ]
    harness.write_result(
        arguments, [one], promises, ("mean cosine of the paper's recipe, held-out users", cosine[PAPER])
    )


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write what `open_folder` reads beside the arrays."""
    import json

    (folder / "manifest.json").write_text(json.dumps({"facts": facts}))


if __name__ == "__main__":
    main()
