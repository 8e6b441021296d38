"""Cold start on real playlists: the paper's methods, our own and the peers, over seeds of the whole procedure.

Task     playlists as listeners, as the product reads them (jobs/ingest/mpd/adapter.py, configs/mpd.yaml): each seed
         draws its own first days, and every factorisation, segment and network starts from it
Judged   as in jobs/cold_start/evaluate.py, on the test cohort; first-day tracks are left out of every list, as a
         playlist holds no track twice. Settings are those of configs/, chosen on the validation cohort
Interval mean over the seeds, with the 95 % interval of Student's t over them; the listeners are the same in each seed,
         so it tells what another run of the procedure would change, not what other listeners would
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

import harness
from harness import Answer, Peer, stopwatch
from pairs import QUICK_PLAYLISTS, subset

CONFIG = Path(__file__).parents[1] / "configs" / "mpd.yaml"
SEEDS = (7, 8, 9, 10, 11)
AT_ONCE = 2
LEARN = (
    "matrix.catalog",
    "matrix.user_track",
    "matrix.track_pairs",
    "matrix.first_day",
    "factorize.svd",
    "factorize.als",
)
SPACES = ("tt_svd", "ut_als")
K = 50
QUICK = {
    "OVERTURE__DROPOUTNET__EPOCHS": "1",
    "OVERTURE__MELU__EPOCHS": "1",
    "OVERTURE__AUTOENCODER__EPOCHS": "3",
    "OVERTURE__MIXTURE__EPOCHS": "2",
    "OVERTURE__NETWORK__EPOCHS": "2",
    "OVERTURE__SEGMENTS__K": "50",
    "OVERTURE__SOURCE__CATALOGUE_TRACKS": "4000",
    "OVERTURE__MATRIX__N_CATALOG": "4000",
}
# What does not look at the space is judged in one of them.
PAPER = (
    "popularity",
    "registration_day_streams",
    "input_features_clustering",
    "dropoutnet_full",
    "dropoutnet_semi",
    "melu_full",
    "melu_semi",
    "full_pers",
    "semi_pers",
    "near_segments",
)
ANYWHERE = (
    "segment_mixture",
    "segment_mixture_reranked",
    "neighbours",
    "first_day_autoencoder",
    "blend",
    "item_knn",
    "ease",
)
JUDGED = {"tt_svd": (*PAPER, *ANYWHERE), "ut_als": (*PAPER, "ials_fold_in")}


def learned(data: str, seed: int, quick: bool, spaces: tuple[str, ...] = SPACES) -> Any:
    """The context of a week of playlists up to the networks, everything drawn from one seed.

    The blend is judged as it is learned, with the others, and not learned once more to be served.
    """
    from jobs.cold_start import features, segments, train
    from jobs.ingest.mpd import adapter as mpd
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.release import weekly_run
    from jobs.settings.settings import load

    changed = {"SEED": str(seed), "SOURCE__SEED": str(seed), "GATE__METHOD": "semi_pers"}
    os.environ |= {f"OVERTURE__{name}": value for name, value in changed.items()} | (QUICK if quick else {})
    settings, home = load(CONFIG), Path(os.environ["OVERTURE_HOME"])
    context = Context(settings, Week.parse(settings.week), home)
    source = subset(Path(data), home / "few", QUICK_PLAYLISTS) if quick else Path(data)
    mpd.run(context, source)
    weekly_run.begin(context)
    for name in LEARN:
        import_module(f"jobs.{name}").run(context)
    context.spark.stop()
    for space in spaces:
        for job in (segments, features, train):
            job.run(context, space)
    return context


def week(data: str, seed: int, quick: bool) -> Answer:
    """The whole procedure from one seed: values of both cohorts by space/method/metric."""
    from jobs.cold_start import evaluate
    from jobs.platform.context import Context

    clock = stopwatch()
    quality: dict[str, float] = {}
    found = learned(data, seed, quick)
    for space in SPACES:
        chosen = found.settings.evaluation.model_copy(update={"methods": JUDGED[space]})
        judge = Context(found.settings.model_copy(update={"evaluation": chosen}), found.week, found.home)
        evaluate.run(judge, space)
        rows = judge.lake.read("evaluation", week=judge.week.name, space=space).to_pylist()
        quality |= {
            f"{space}/{row['method']}/{row['split']}/{row['metric']}": row["value"]
            for row in rows
            if row["slice"] == "all" and row["k"] == K
        }
    return Answer([clock()], quality)


def table(answers: list[Answer]) -> list[dict[str, Any]]:
    """A row a method and space: mean and half width of the interval, in %, by split and metric."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for key in answers[0].quality:
        space, method, split, metric = key.split("/")
        values = 100 * np.array([answer.quality[key] for answer in answers])
        n = len(values)
        half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        row = found.setdefault((space, method), {"space": space, "method": method})
        row[f"{split} {metric}"] = [round(float(values.mean()), 2), round(float(half), 2)]
    return list(found.values())


def case(rows: list[dict[str, Any]], n_seeds: int, seconds: list[float], peak: float) -> dict[str, Any]:
    """The table as peers of a case: quality in %, mean over the seeds."""
    peers = {}
    for row in sorted(rows, key=lambda row: -row["test ndcg"][0]):
        quality = {name: row[name][0] for name in ("test precision", "test recall", "test ndcg", "validation ndcg")}
        quality["+- test ndcg"] = row["test ndcg"][1]
        record = harness.summary([(Answer(seconds, quality), peak)], "")
        anywhere = row["method"] in ("popularity", *ANYWHERE)
        peers[row["method"] if anywhere else f"{row['method']}, {row['space']}"] = record
    return {
        "case": f"the playlist task, @{K}, in %",
        "about": f"Means over {n_seeds} seeds of the whole procedure. Seconds and MiB are those of a whole run with "
        f"all methods of both spaces, the same in every row; {AT_ONCE} runs share the machine.",
        "peers": peers,
        "ratios": {},
        "table": rows,
    }


def main() -> None:
    """All seeds, one after the other."""
    files = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    chosen = harness.options("playlists", (__doc__ or "").splitlines()[0], files, required=True)
    seeds = SEEDS[:1] if chosen.quick else SEEDS
    os.environ["OMP_NUM_THREADS"] = "1"  # for the runs: quality is measured here, so they may share the machine

    def run(seed: int) -> tuple[Answer, float]:
        harness.say(f"playlists: seed {seed} ...")
        arguments = {"data": str(chosen.data), "seed": seed, "quick": chosen.quick}
        answer, peak = harness.alone(Peer("week", week, arguments))
        best = max(answer.quality, key=lambda key: answer.quality[key] if key.endswith("test/ndcg") else 0)
        harness.say(f"  seed {seed}: {answer.seconds[0]:.0f} s; best {best}: {100 * answer.quality[best]:.2f} %")
        return answer, peak

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers, peaks = zip(*pool.map(run, seeds), strict=True)
    rows = table(list(answers))
    value = {(row["space"], row["method"]): row["test ndcg"][0] for row in rows}
    best_peer = max(v for (_, method), v in value.items() if method in ("item_knn", "ease", "ials_fold_in"))
    semi = max(v for (_, method), v in value.items() if method in ("segment_mixture", "segment_mixture_reranked"))
    top = max(value.values())
    promises = [
        harness.promise("test NDCG@50 of the best method, %", 26, top),
        harness.promise("test NDCG@50 of the best method that is semi-personalised, %", 24, semi),
        harness.promise("best method over the best peer, NDCG@50 points", 0, top - best_peer),
    ]
    seconds = [answer.seconds[0] for answer in answers]
    harness.finish(chosen, [case(rows, len(seeds), seconds, max(peaks))], promises, ("best test NDCG@50, %", top))


if __name__ == "__main__":
    main()
