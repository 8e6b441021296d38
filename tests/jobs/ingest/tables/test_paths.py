"""Paths of inputs: names with any character, globs, days."""

from __future__ import annotations

import unicodedata
from datetime import date
from pathlib import Path

import pytest

from jobs.ingest.tables.paths import files_below, find_days, nearest_existing, resolve
from jobs.platform.spark_paths import spark_path

AWKWARD = ["my data", "Téléchargements", "a#b", "a%20b", "a[1]", "a{1}", "a*b", "a?b", "a\\b", "a,b", "a+b", "a&b"]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names(matches, below: Path) -> list[str]:
    return [str(Path(m.path).relative_to(below)) for m in matches]


@pytest.mark.parametrize("name", AWKWARD)
def test_data_folder_may_have_any_name(tmp_path, name):
    touch(tmp_path / name / "x1.csv", tmp_path / name / "y.csv")
    assert names(resolve("{data}/x*.csv", tmp_path / name), tmp_path) == [f"{name}/x1.csv"]


@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "a{1}"])
def test_a_part_that_exists_literally_is_no_glob(tmp_path, name):
    touch(tmp_path / name / "f.csv", tmp_path / "a1" / "f.csv", tmp_path / "axb" / "f.csv")
    assert names(resolve(f"{{data}}/{name}/f.csv", tmp_path), tmp_path) == [f"{name}/f.csv"]


def test_brackets_are_a_glob_where_no_such_name_exists(tmp_path):
    touch(tmp_path / "a1" / "f", tmp_path / "a2" / "f", tmp_path / "a3" / "f")
    assert names(resolve("{data}/a[12]/f", tmp_path), tmp_path) == ["a1/f", "a2/f"]


def test_accents_match_in_composed_and_decomposed_form(tmp_path):
    touch(tmp_path / unicodedata.normalize("NFD", "été") / "f-1")
    assert len(resolve("{data}/" + unicodedata.normalize("NFC", "été") + "/f*", tmp_path)) == 1


def test_two_stars_match_any_number_of_folders(tmp_path):
    touch(tmp_path / "f.csv", tmp_path / "a" / "f.csv", tmp_path / "a" / "b" / "f.csv", tmp_path / ".git" / "f.csv")
    assert names(resolve("{data}/**/*.csv", tmp_path), tmp_path) == ["a/b/f.csv", "a/f.csv", "f.csv"]


def test_days_are_found_in_folders_and_names(tmp_path):
    for day in ("2026-11-15", "2026-11-16", "2026-02-30", "20261117"):
        touch(tmp_path / f"day={day}" / f"l-{day}.jsonl")
    touch(tmp_path / "day=2026-11-16" / "l-2026-11-15.jsonl")
    days = find_days("{data}/day={day}/*.jsonl", tmp_path)
    assert {day: len(matches) for day, matches in days.items()} == {"2026-11-15": 1, "2026-11-16": 2}
    both = "{data}/day={day}/l-{day}.jsonl"
    assert len(find_days(both, tmp_path)["2026-11-16"]) == len(resolve(both, tmp_path, date(2026, 11, 16))) == 1


def test_week_is_the_monday_on_or_before_the_day(tmp_path):
    touch(tmp_path / "w=2026-11-16" / "f", tmp_path / "w=2026-11-09" / "f")
    pattern = "{data}/w={week}/f"
    assert names(resolve(pattern, tmp_path, date(2026, 11, 22)), tmp_path) == ["w=2026-11-16/f"]
    assert names(resolve(pattern, tmp_path, date(2026, 11, 15)), tmp_path) == ["w=2026-11-09/f"]


def test_doubled_braces_are_text(tmp_path):
    touch(tmp_path / "{day}-x")
    assert names(resolve("{data}/{{day}}-*", tmp_path, date(2026, 11, 16)), tmp_path) == ["{day}-x"]


def test_folder_of_files_skips_hidden_ones(tmp_path):
    touch(tmp_path / "c" / "x=1" / "a.parquet", tmp_path / "c" / "_SUCCESS", tmp_path / "c" / ".a.crc")
    (match,) = resolve("{data}/c", tmp_path)
    assert match.is_folder
    assert names(files_below(match), tmp_path) == ["c/x=1/a.parquet"]


def test_message_names_the_deepest_folder_that_exists(tmp_path):
    touch(tmp_path / "a" / "users.csv")
    assert nearest_existing("{data}/a/b/*.csv", tmp_path) == f"{tmp_path}/a contains users.csv"


def test_spark_path_escapes_globs_only():
    assert spark_path("/a b/é#%20[1]{2}*?\\,x") == "/a b/é#%20\\[1\\]\\{2\\}\\*\\?\\\\,x"
