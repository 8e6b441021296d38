"""Measure the skip engine at the size of DSG17 on synthetic plays: features, then the training of every model.

Folds for the blend are excluded, because they repeat the training on earlier parts of the same plays.
"""

from __future__ import annotations

from typing import Any

import harness
from harness import Peer
from skip import train_model
from skip_features import CONFIG, fill, on_spark

FULL, QUICK = 7_558_834, 60_000
LIMIT_S, LIMIT_MIB = 600, 12 * 1024


def main() -> None:
    """Measure features and models, one row each."""
    arguments = harness.parse_arguments("skip_scale", (__doc__ or "").splitlines()[0])
    from jobs.settings.settings import load
    from spark_peers import scratch

    n_rows = QUICK if arguments.quick else FULL
    with scratch() as folder:
        home = {"home": str(folder)}
        fill_result, peak = harness.run_in_process(Peer("fill", fill, {**home, "n_rows": n_rows}))
        harness.log(f"skip_scale: generated and ingested: {fill_result.quality}, {peak:.0f} MiB")
        features = harness.compare([Peer("features", on_spark, home, 1, "all days, the state of the last one too")])
        models = harness.compare(
            [Peer(name, train_model, {**home, "model": name, "folds": False}, 1) for name in load(CONFIG).skip.models]
        )
    for peer in (features | models).values():
        peer["quality"] = {
            name: peer["quality"][name] for name in ("rows", "fit s", "test AUC") if name in peer["quality"]
        }
    cases: list[dict[str, Any]] = [
        {
            "case": f"{n_rows} made-up plays",
            "about": "Features on Spark (local[2]), then `overture skip train`: reading, fitting, predicting "
            "validation and test. AUC on synthetic plays does not apply to real plays.",
            "peers": features | models,
            "ratios": {},
        }
    ]
    slowest = max(peer["seconds"]["median"] for peer in models.values())
    peak_mib = max(peer["peak_mib"] for peer in (features | models).values())
    promises = [
        harness.promise("seconds of the features", LIMIT_S, features["features"]["seconds"]["median"], at_most=True),
        harness.promise("seconds of the slowest training", LIMIT_S, slowest, at_most=True),
        harness.promise("peak MiB of any of them", LIMIT_MIB, peak_mib, at_most=True),
    ]
    harness.write_result(arguments, cases, promises, ("seconds of the slowest training", slowest))


if __name__ == "__main__":
    main()
