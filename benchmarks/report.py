"""Write docs/results/ from benchmarks/results/*.json: `python benchmarks/report.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "results"
ORDER = (
    "als",
    "svd",
    "segments",
    "paper",
    "growth",
    "pairs",
    "playlists",
    "ablation",
    "baselines",
    "skip_features",
    "skip_scale",
    "skip",
    "service",
)
HEAD = """# Results

Generated from `benchmarks/results/*.json`, which the scripts of `benchmarks/` write; do not edit. `make bench` runs the
scripts whose input is available: `DATA=` real playlists, `DSG17=` real plays; `service` needs a champion under OVERTURE_HOME.

Peers run in turn in one call, each run in a process of its own, on the same data and cores. Seconds are medians of
several runs (lowest to highest). MiB is the peak of the whole process tree, Java and Python workers included, without pages
of mapped files. `of ours` is the peer's median divided by that of this project. `--quick` takes about a minute at a smaller
size, at which start-up has a larger share.
"""


def section(found: dict[str, Any]) -> str:
    """One result as Markdown."""
    machine = found["machine"]
    lines = [
        f"## {found['name']}",
        "",
        f"`{found['command']}` on {found['date']}, commit {found['commit']}; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        + ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        "",
    ]
    for case in found["cases"]:
        names = list(dict.fromkeys(q for peer in case["peers"].values() for q in peer["quality"]))
        lines += [f"### {case['case']}", ""]
        if case.get("about"):
            lines += [case["about"], ""]
        timed = case.get("timed", "seconds")
        lines += ["| " + " | ".join(["", timed, "of ours", "peak MiB", *names]) + " |", "|---" * (4 + len(names)) + "|"]
        for name, peer in case["peers"].items():
            low, high = peer["seconds"]["range"]
            ratio = case["ratios"].get(name)
            cells = [
                name,
                f"{number(peer['seconds']['median'])} ({number(low)}-{number(high)})",
                f"{ratio:g} x" if ratio else "",
                f"{peer['peak_mib']}",
                *(number(peer["quality"].get(q)) for q in names),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        notes = [f"{name}: {peer['note']}." for name, peer in case["peers"].items() if peer.get("note")]
        lines += ["", *notes, *([""] if notes else [])]
    if found["promises"]:
        lines += ["| promise | bound | found | |", "|---|---|---|---|"]
        for row in found["promises"]:
            bound = f"{'at most' if row['at_most'] else 'at least'} {row['bound']:g}"
            lines.append(f"| {row['what']} | {bound} | {row['found']:g} | {'kept' if row['kept'] else '**missed**'} |")
        lines.append("")
    lines += [f"{found['headline']['name']}: **{found['headline']['value']:g}**", ""]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four digits for people."""
    return "" if value is None else f"{value:.4g}"


def page() -> str:
    """The whole page."""
    found = results()
    picture = ["![seconds of each peer over ours, and seconds over events](overview.png)\n"] if found else []
    if "skip" in found:
        picture.append("![AUC of the skip models with honest and with leaky features](skip.png)\n")
    return "\n".join([HEAD, *picture, *(section(found[name]) for name in ORDER if name in found)])


def feigned(found: dict[str, Any]) -> None:
    """A picture of what features of the future feign, from the skip engine's second table."""
    from jobs.skip import figures

    peers = found["cases"][1]["peers"]
    rows = [{"model": name, **peer["quality"]} for name, peer in peers.items()]
    published = {row["model"]: row["published"] for row in rows if "published" in row}
    figure = figures.leakage(rows, published)
    figure.savefig(PAGES / "skip.png", dpi=110, metadata={"Software": None})


def results() -> dict[str, dict[str, Any]]:
    """What has been measured."""
    return {path.stem: json.loads(path.read_text()) for path in (HERE / "results").glob("*.json")}


def overview(found: dict[str, dict[str, Any]]) -> None:
    """A picture of it: how many times longer each peer took, and how seconds grow with events."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = 2 if "growth" in found else 1
    ratios = (3, 2)[:panels]
    figure, drawn = plt.subplots(
        1, panels, figsize=(4 + 4 * panels, 5.5), width_ratios=ratios, layout="constrained", squeeze=False
    )
    left = drawn[0, 0]
    bars = [
        (f"{name}, {case['case'].split(', against')[0]}: {peer}", ratio)
        for name in ("als", "svd", "segments")
        for case in found.get(name, {"cases": []})["cases"]
        for peer, ratio in case["ratios"].items()
    ][::-1]
    left.barh(
        range(len(bars)),
        [ratio - 1 for _, ratio in bars],
        left=1,
        color=["#2a6f97" if ratio >= 1 else "#c1666b" for _, ratio in bars],
    )
    left.set_yticks(range(len(bars)), [label for label, _ in bars])
    for at, (_, ratio) in enumerate(bars):
        left.text(max(1, ratio), at, f" {ratio:.3g}", va="center", fontsize=7)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", title="seconds, times ours (1 = as fast)")
    left.tick_params(axis="y", labelsize=7)
    left.margins(x=0.12)
    left.xaxis.set_major_formatter("{x:g}")
    if panels == 2:
        right = drawn[0, 1]
        peers = found["growth"]["cases"][0]["peers"].values()
        events = [peer["quality"]["events"] / 1e6 for peer in peers]
        seconds = [peer["seconds"]["median"] for peer in peers]
        right.plot(events, seconds, "o-", color="#2a6f97", label="the week's Spark jobs")
        right.plot([0, events[-1]], [0, seconds[-1]], ":", color="grey", label="proportional")
        right.set(xlabel="events, millions", ylabel="seconds", title="growth", xlim=(0, None), ylim=(0, None))
        right.legend(frameon=False)
    for axes in drawn.flat:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PAGES / "overview.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    overview(results())
    if "skip" in results():
        feigned(results()["skip"])
    (HERE / "README.md").write_text(page())
