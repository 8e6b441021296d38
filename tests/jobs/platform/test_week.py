"""The logical week, and settings."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.errors import BadArgument
from jobs.platform.week import Week
from jobs.settings import settings

ROOT = Path(__file__).parents[3]


def test_a_week_sees_what_was_before_its_monday():
    week = Week.parse("2026-11-16")
    assert week.as_of == datetime(2026, 11, 16, tzinfo=UTC)
    assert week.cohort_start == datetime(2026, 10, 10, tzinfo=UTC)
    assert week.cohort_end == datetime(2026, 10, 17, tzinfo=UTC)
    assert week.truth_end <= week.as_of
    assert week.window_start(7) == week.previous.as_of


def test_a_backtest_judges_on_those_who_come_after():
    week = Week.parse("2026-11-16", backtest=True)
    assert week.cohort_start == week.as_of
    assert week.truth_end == week.as_of + timedelta(days=37)
    assert week.name != Week.parse("2026-11-16").name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-11-18", "a Wednesday; a week is named by its Monday: 2026-11-16 or 2026-11-23"),
        ("2026-02-30", "'2026-02-30' is not a date"),
        ("", "'' is not a date"),
    ],
)
def test_what_is_no_monday_is_refused(text, message):
    with pytest.raises(BadArgument, match=message):
        Week.parse(text)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_config_loads(file):
    found = settings.load(file)
    assert found.name == file.stem
    Week.parse(found.week)


def test_the_environment_wins_over_the_file(monkeypatch):
    monkeypatch.setenv("OVERTURE__SPARK__MASTER", "spark://somewhere:7077")
    found = settings.load(ROOT / "configs" / "tiny.yaml")
    assert found.spark.master == "spark://somewhere:7077"
    assert found.spark.partitions == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("segments: {k: 0}", r"segments\.k: .*greater than 0.*got 0"),
        ("segmets: {k: 5}", "segmets"),
        ("als: [1", "is not YAML"),
    ],
)
def test_a_wrong_setting_names_file_and_field(tmp_path, line, message):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\n{line}\n')
    with pytest.raises(BadArgument, match=message) as caught:
        settings.load(file)
    assert "mine.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadArgument, match=r"no such file .*none\.yaml"):
        settings.load(tmp_path / "none.yaml")
