"""Durations of steps, and the log lines of a long job."""

from __future__ import annotations

from jobs.platform import progress, stopwatch


def test_laps_add_up_and_are_logged(monkeypatch, capsys):
    clock = iter([101.5, 101.5, 104.0, 104.0])
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: next(clock))
    watch = stopwatch.Stopwatch("skip train fm", began=100.0)
    watch.lap("read_s")
    watch.lap("fit_s")
    assert watch.laps == {"read_s": 1.5, "fit_s": 2.5}
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0] for line in lines] == ["skip train fm: read done", "skip train fm: fit done"]


def test_long_job_logs_while_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(stopwatch, "LOG_INTERVAL_S", 0.01)
    with stopwatch.stopwatch("job"):
        while "job: running" not in capsys.readouterr().err:
            pass


def test_progress_yields_every_item_and_logs_once_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 61.0, 61.0, 70.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.progress("abc", 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "letters: 1 of 3\n"
