"""The tables of benchmarks/README.md, made from benchmarks/results/*.json: `python benchmarks/report.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ORDER = ("als", "svd", "segments", "growth", "pairs")
HEAD = """# Measurements

Made by `python benchmarks/report.py` from `results/*.json`; do not edit. `make bench` runs every script and this one.
Peers run side by side, each run in a process of its own, one after the other, taking turns, on the same data and the
same cores. Seconds are medians of several runs (lowest to highest); MiB is the peak of the whole process tree, Java and
Python workers included, pages of mapped files not. `of ours` is the peer's median over ours. `--quick` answers in about
a minute at a smaller size, where start-up weighs more; `--out FILE` writes the JSON elsewhere.
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
        lines += [
            "| " + " | ".join(["", timed, "of ours", "peak MiB", *names]) + " |",
            "|---" * (4 + len(names)) + "|",
        ]
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
    results = {path.stem: json.loads(path.read_text()) for path in (HERE / "results").glob("*.json")}
    return "\n".join([HEAD, *(section(results[name]) for name in ORDER if name in results)])


if __name__ == "__main__":
    (HERE / "README.md").write_text(page())
