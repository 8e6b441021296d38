"""Simulate twenty weeks of the gate: how far quality can fall, and how often equal releases pass.

Two releases are trained on the week of a home (`make demo` creates one) with different seeds. The spread of their
difference over the test listeners is that of the simulation: each week new listeners are drawn, and the values of
challenger, champion and anchor differ by draws from it, plus a true loss of the challenger. The gate's own code
evaluates every week.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import Measurement, Peer, stopwatch

WEEKS, TRUE_LOSS, DELTA = 20, 0.02, 0.02
SIZES = (100, 300, 1_000, 3_000, 10_000)
N_LISTENERS = (300, 3_000)
SPACE, METHOD = "tt_svd", "semi_pers"


def retrained(home: str, folder: str, seeds: tuple[int, ...]) -> list[np.ndarray]:
    """Return NDCG of each test listener, (B,), for a release that is trained with each seed, in a copy of a home."""
    from jobs.cold_start import evaluate, features, segments, train
    from jobs.cold_start.methods import method_factory
    from jobs.factorize import svd
    from jobs.matrix import first_day
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load
    from models.cold_start.methods.base import recommend_lists
    from models.evaluation.metrics import score

    copy = Path(folder) / "home"
    for name in ("lake", "work", "mlflow"):
        shutil.copytree(Path(home) / name, copy / name, symlinks=True)
    os.environ["OVERTURE_HOME"] = str(copy)
    settings, values = load(Path(__file__).parents[1] / "configs" / "demo.yaml"), []
    for turn, seed in enumerate(seeds):
        context = Context(settings.model_copy(update={"seed": seed}), Week.parse(settings.week), copy)
        if not turn:
            first_day.run(context)
        svd.run(context)
        for job in (segments, features, train):
            job.run(context, SPACE)
        cohort = evaluate.read_cohort(context, SPACE, "test")
        method = method_factory(context, SPACE, lambda *_: None).build(METHOD)
        lists_BK = recommend_lists(method, cohort.x_BF, settings.gate.k, cohort.days)
        values.append(score(lists_BK, cohort.truth, settings.gate.k)["ndcg"])
        context.spark.stop()
        harness.log(f"gate: seed {seed}, NDCG {values[-1].mean():.4f} on {len(values[-1])} test listeners")
    return values


def spread(values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return values of listeners (B,) and centred differences between two releases (B,), both relative to the mean."""
    first, second = values[0] / values[0].mean(), values[1] / values[1].mean()
    return first, first - second


class Listeners:
    """Draws the values of releases for new listeners.

    Args:
        values_B: values to draw from, with mean 1.
        differences_B: differences between two releases of equal quality to draw from; each release gets a share of
            1 / sqrt(2), so that two releases differ with their standard deviation.
        seed: seed of the draws.
    """

    def __init__(self, values_B: np.ndarray, differences_B: np.ndarray, seed: int) -> None:
        self.values_B, self.shares_B = values_B, differences_B / np.sqrt(2)
        self.rng = np.random.default_rng(seed)

    def draw(self, n: int, qualities: tuple[float, ...]) -> list[np.ndarray]:
        """Return the values (n,) of releases of the given true qualities for the same n new listeners."""
        value_N = self.rng.choice(self.values_B, n)
        return [
            quality * value_N + self.rng.choice(self.shares_B, n) * self.rng.choice((-1, 1), n) for quality in qualities
        ]


def simulate(listeners: Listeners, n: int, delta: float, weekly_loss: float) -> tuple[float, float]:
    """Simulate WEEKS weekly releases, each worse than the champion by `weekly_loss` in truth.

    Returns:
        The loss of the last champion against the anchor, and the share of the releases that passed.
    """
    from jobs.release.rules import ANCHOR_RULE, CHAMPION_RULE, PASS, not_worse_than

    champion, n_passed = 1.0, 0
    for _ in range(WEEKS):
        challenger = champion * (1 - weekly_loss)
        ours, theirs, anchors = listeners.draw(n, (challenger, champion, 1.0))
        lines = (
            not_worse_than(CHAMPION_RULE, ours, theirs, delta, "champion"),
            not_worse_than(ANCHOR_RULE, ours, anchors, delta, "anchor"),
        )
        if all(line.verdict == PASS for line in lines):
            champion, n_passed = challenger, n_passed + 1
    return 1 - champion, n_passed / WEEKS


def supported_delta(listeners: Listeners, n: int, n_draws: int) -> float:
    """Return the smallest delta at which 85 % of equal releases pass against champion and anchor."""
    from models.evaluation.paired import PairedDifference

    needed = []
    for _ in range(n_draws):
        ours, theirs, anchors = listeners.draw(n, (1.0, 1.0, 1.0))
        needed.append(max(-PairedDifference.of(ours, rival).bounds()[0] for rival in (theirs, anchors)))
    return float(np.quantile(needed, 0.85))


def measure(home: str, folder: str, n_runs: int) -> Measurement:
    """Retrain, then simulate both kinds of releases and the delta of each size of a cohort."""
    values = retrained(home, folder, (7, 8))
    clock = stopwatch()
    values_B, differences_B = spread(values)
    quality = {"listeners": float(len(values_B)), "spread": float(differences_B.std(ddof=1))}
    listeners = Listeners(values_B, differences_B - differences_B.mean(), 1)
    for n in N_LISTENERS:
        losses = [simulate(listeners, n, DELTA, TRUE_LOSS)[0] for _ in range(n_runs)]
        quality[f"loss at {n}, 95 % quantile"] = float(np.quantile(losses, 0.95))
        passed = [simulate(listeners, n, DELTA, 0.0)[1] for _ in range(n_runs)]
        quality[f"equal releases that pass at {n}"] = float(np.mean(passed))
    for n in SIZES:
        quality[f"delta at {n}"] = supported_delta(listeners, n, 10 * n_runs)
    return Measurement([clock()], quality)


def main() -> None:
    """Simulate, and print the largest loss in % and the share of equal releases that pass, in %."""
    arguments = harness.parse_arguments("gate", __doc__ or "", "a home with a week (default: OVERTURE_HOME)")
    home = (arguments.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        n_runs = 40 if arguments.quick else 1_000
        peers = harness.compare([Peer("the gate", measure, {"home": str(home), "folder": folder, "n_runs": n_runs}, 1)])
    quality = peers["the gate"]["quality"]
    cases: list[dict[str, Any]] = [
        {
            "case": f"{WEEKS} weekly releases, delta {DELTA:g}",
            "about": f"Each release is worse than the champion by {TRUE_LOSS:.0%} in truth (loss), or equal to it. "
            f"{n_runs} runs. `spread` is the standard deviation of the difference of two retrained releases over "
            f"listeners, relative to the mean. `delta at n`: at which 85 % of equal releases pass with n listeners.",
            "peers": peers,
            "ratios": {},
        }
    ]
    loss = max(quality[f"loss at {n}, 95 % quantile"] for n in N_LISTENERS)
    passed = quality[f"equal releases that pass at {N_LISTENERS[-1]}"]
    targets = [
        harness.promise("largest loss against the anchor, 95 % quantile", DELTA, loss, at_most=True),
        harness.promise("share of equal releases that pass at 3 000 listeners", 0.85, passed),
    ]
    harness.write_result(arguments, cases, targets, ("share of equal releases that pass at 3 000 listeners", passed))
    print(f"{100 * loss:.2f} {100 * passed:.2f}")


if __name__ == "__main__":
    main()
