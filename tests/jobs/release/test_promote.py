"""Tests of promotion, rollback and publication: after a crash or a race, an intact champion is in service."""

from __future__ import annotations

import json
import shutil

import pytest

from contracts.errors import BadArgument, CheckFailed, OvertureError
from jobs.release import bundle, gate, pointer, promote, publish, registry, rollback
from jobs.tracking.tracker import Tracker
from serving.release import manifest
from serving.release.bundle import open_release
from tests.helpers import fork_server, small_week

FIRST, SECOND, THIRD = small_week.FIRST, small_week.SECOND, "2026-11-30"


def gated_week(home, week: str, seed: int = 0):
    """Return a week whose release has been built and has passed the gate."""
    return small_week.build_and_gate(small_week.ready(home, week, seed=seed))


@pytest.fixture
def first(home):
    """Return the first week, not yet promoted."""
    return small_week.staged(home, "passed")


@pytest.fixture
def second(home):
    """Return the second week, not yet promoted, with the first week as champion."""
    return small_week.staged(home, "waiting", SECOND)


def aliases(context) -> dict[str, str]:
    versions = registry.read_aliases(context, Tracker.connect(context))
    return {name: versions[name] for name in ("champion", "previous") if name in versions}


def test_promotion_moves_aliases_and_pointer(first):
    assert pointer.read(first.home) is None
    report = promote.run(first)
    release = bundle.release_of_week(first)
    assert (report["promoted"], report["champion"], report["revision"]) == (True, release, 1)
    assert pointer.read(first.home) == pointer.Pointer(release, None, 1, FIRST)
    assert aliases(first) == {"champion": release}
    again = promote.run(first)
    assert (again["promoted"], again["revision"]) == (False, 1)
    assert "already the champion" in again["why"]


def test_promotion_survives_a_kill_between_any_two_writes(second, tmp_path):
    home = second.home
    old, new = pointer.read(home).release, bundle.release_of_week(second)
    clean = tmp_path / "clean"
    for name in ("mlflow", "releases"):
        shutil.copytree(home / name, clean / name)
    result_file = tmp_path / "answer.json"

    def restore() -> None:
        for name in ("mlflow", "releases"):
            shutil.rmtree(home / name)
            shutil.copytree(clean / name, home / name)

    def attempt(die_at: int = -1) -> int:
        arguments = {"home": str(home), "week": SECOND, "die_at": die_at, "result_file": str(result_file)}
        return fork_server.shared().run(("promote", arguments))[0]

    assert attempt() == 0
    writes = json.loads(result_file.read_text())["writes"]
    assert writes.count("set_registered_model_alias") == 2
    signed, moved = (n for n, name in enumerate(writes) if name == "replace")
    assert signed < writes.index("set_registered_model_alias")
    assert max(n for n, name in enumerate(writes) if name == "set_registered_model_alias") < moved
    for die_at in range(len(writes)):
        restore()
        assert attempt(die_at) == 9, f"write {die_at} of {writes}"
        serving = pointer.read(home)
        assert serving.release == (old if die_at <= moved else new), f"killed before write {die_at} of {writes}"
        open_release(pointer.releases(home) / serving.release)
        assert attempt() == 0
        report = json.loads(result_file.read_text())
        assert report["promoted"] == (die_at <= moved)
        assert pointer.read(home) == pointer.Pointer(new, old, 2, SECOND)
        assert report["aliases"] == {"champion": new, "previous": old, "challenger": new, "anchor": old}


def test_one_of_two_concurrent_promotions_fails(second, tmp_path):
    """Both weeks were evaluated against the same champion; the second one to promote must be evaluated again."""
    third = gated_week(second.home, THIRD)
    orders = [
        (
            "promote",
            {"home": str(second.home), "week": week, "die_at": -1, "result_file": str(tmp_path / f"{week}.json")},
        )
        for week in (SECOND, THIRD)
    ]
    assert fork_server.shared().run(*orders) == [0, 0]
    reports = [json.loads((tmp_path / f"{week}.json").read_text()) for week in (SECOND, THIRD)]
    won = [report for report in reports if report.get("promoted")]
    lost = [report for report in reports if not report.get("promoted")]
    assert len(won) == 1
    assert won[0]["revision"] == 2
    # The later week wins: the earlier one is rejected. The earlier week wins: the later one's verdict is stale.
    reason = lost[0].get("why") or lost[0]["error"]
    assert "later week" in reason or "the champion has moved to revision 2" in reason
    assert pointer.read(second.home).release == won[0]["champion"]
    assert aliases(third)["champion"] == won[0]["champion"]


def test_verdict_against_an_older_champion_raises(second):
    third = gated_week(second.home, THIRD)
    promote.run(second)
    with pytest.raises(CheckFailed, match="the champion has moved to revision 2 since the gate compared") as raised:
        promote.run(third)
    assert raised.value.exit_code == 3
    assert aliases(third)["champion"] == bundle.release_of_week(second)
    gate.run(third)
    assert promote.run(third)["revision"] == 3


def test_compare_and_set(second):
    with pytest.raises(CheckFailed, match="moved to revision 1"):
        pointer.move(second.home, 0, "x", FIRST)
    assert pointer.read(second.home).revision == 1


def test_older_week_replaces_a_newer_champion_only_by_name(second):
    promote.run(second)
    newest = pointer.read(second.home)
    older = gated_week(second.home, "2026-11-09", seed=1)
    report = promote.run(older)
    assert (report["promoted"], report["champion"]) == (False, newest.release)
    assert "later week 2026-11-23" in report["why"]
    release = bundle.release_of_week(older)
    assert promote.run(second, release=release[:12])["champion"] == release
    assert pointer.read(second.home) == pointer.Pointer(release, newest.release, 3, "2026-11-09")


def test_bad_requests_raise(second):
    without_verdict = small_week.ready(second.home, THIRD)
    with pytest.raises(CheckFailed, match="week 2026-11-30 has no verdict"):
        promote.run(without_verdict)
    release = bundle.run(without_verdict)["release"]
    with pytest.raises(CheckFailed, match=f"release {release[:12]} has no verdict"):
        promote.run(without_verdict, release=release)
    for name in ("", "*", "../x", "0" * 12):
        with pytest.raises(BadArgument, match="matches"):
            promote.run(second, release=name)
    backtest = type(second)(second.settings, type(second.week)(second.week.monday, True), second.home)
    with pytest.raises(BadArgument, match="backtest"):
        promote.run(backtest)


def test_promoting_a_damaged_bundle_raises(second):
    before = pointer.read(second.home), aliases(second)
    victim = pointer.releases(second.home) / bundle.release_of_week(second) / "tt_svd" / "network.onnx"
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(CheckFailed, match=r"tt_svd/network\.onnx has"):
        promote.run(second)
    assert (pointer.read(second.home), aliases(second)) == before


def test_nothing_is_promoted_if_mlflow_is_unavailable(second):
    before = pointer.read(second.home)
    database = second.home / "mlflow" / "mlflow.db"
    database.rename(database.with_suffix(".away"))
    database.mkdir()
    for job in (promote, gate, bundle, publish):
        with pytest.raises(OvertureError, match="MLflow is unavailable at sqlite") as raised:
            job.run(second)
        assert raised.value.exit_code == 1
    assert pointer.read(second.home) == before


def test_rollback_to_previous_and_to_a_named_release(second):
    promote.run(second)
    new, old = pointer.read(second.home).release, pointer.read(second.home).previous
    dry = rollback.run(second, dry_run=True)
    assert (dry["rolled_back"], dry["to"]) == (False, old)
    assert pointer.read(second.home).release == new
    report = rollback.run(second)
    assert (report["rolled_back"], report["aliases"]) == (True, "moved")
    assert pointer.read(second.home) == pointer.Pointer(old, new, 3, FIRST)
    assert aliases(second) == {"champion": old, "previous": new}
    rollback.run(second)
    assert pointer.read(second.home).release == new
    assert rollback.run(second, to=old[:16])["to"] == old
    assert rollback.run(second, to=old)["why"].endswith("is the champion already")


def test_rollback_does_not_wait_for_mlflow(second, capsys):
    promote.run(second)
    new, old = pointer.read(second.home).release, pointer.read(second.home).previous
    database = second.home / "mlflow" / "mlflow.db"
    database.rename(database.with_suffix(".away"))
    database.mkdir()
    assert rollback.run(second)["aliases"].startswith("not moved: MLflow is unavailable")
    assert pointer.read(second.home).release == old
    assert "the aliases in MLflow are not" in capsys.readouterr().err
    database.rmdir()
    database.with_suffix(".away").rename(database)
    assert aliases(second)["champion"] == new
    gate.run(small_week.context_at(second.home, FIRST))
    assert promote.run(small_week.context_at(second.home, FIRST))["promoted"] is False
    assert aliases(second) == {"champion": old, "previous": new}


def test_rollback_without_previous_release_raises(first):
    with pytest.raises(CheckFailed, match="no champion yet"):
        rollback.run(first)
    promote.run(first)
    with pytest.raises(CheckFailed, match="no previous release"):
        rollback.run(first)


def test_rollback_to_a_damaged_release_raises(second):
    promote.run(second)
    now = pointer.read(second.home)
    (pointer.releases(second.home) / now.previous / "provenance.json").unlink()
    with pytest.raises(CheckFailed, match=r"provenance\.json is missing"):
        rollback.run(second)
    assert pointer.read(second.home) == now


def test_publish_opens_and_reports_the_champion(first):
    with pytest.raises(CheckFailed, match="no champion yet"):
        publish.run(first)
    promote.run(first)
    report = publish.run(first)
    record = json.loads((pointer.releases(first.home) / "published.json").read_text())
    assert record["release"] == report["release"] == bundle.release_of_week(first)
    assert record["store"] == "memory"
    assert record["users"] == {"warm": small_week.N_WARM, "cold": 0}
    assert len(record["first_tracks"]["tt_svd"]) == 3
    victim = pointer.releases(first.home) / record["release"] / "ut_als" / "network.onnx"
    victim.write_bytes(b"")
    with pytest.raises(CheckFailed, match=r"ut_als/network\.onnx"):
        publish.run(first)


def test_error_names_the_damaged_pointer(first):
    for text in (
        "{",
        "[]",
        '{"release": 1, "previous": null, "revision": 1, "week": "2026-11-16"}',
        '{"release": "x"}',
    ):
        (pointer.releases(first.home) / "champion.json").write_text(text)
        with pytest.raises(CheckFailed, match=r"champion\.json is damaged"):
            pointer.read(first.home)


def test_promoting_an_unregistered_release_raises(second):
    client = Tracker.connect(second).client
    version = registry.find_version(second, Tracker.connect(second), bundle.release_of_week(second))
    client.delete_model_version("cold_start", version)
    with pytest.raises(CheckFailed, match="overture release bundle"):
        promote.run(second)
    assert pointer.read(second.home).week == FIRST
    manifest.verify(pointer.releases(second.home) / pointer.read(second.home).release)
