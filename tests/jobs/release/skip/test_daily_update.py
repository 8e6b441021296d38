"""Tests of daily updates of the skip engine: evaluated, promoted, reproducible, independent of later plays."""

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.week import Week
from jobs.quality import check
from jobs.release import bundle, pointer, rollback
from jobs.release.skip import daily_update, gate, snapshot
from jobs.skip import artifacts, build_features, incremental_training
from serving.release import manifest
from serving.skip.release import ANSWERS, SkipRelease
from tests.helpers import skip_week
from tests.helpers.skip_week import DAY, champion, with_gate_settings


@pytest.fixture
def context(skip_week_home, tmp_path, monkeypatch):
    return skip_week.copied(skip_week_home, tmp_path, monkeypatch)


def test_daily_update_is_evaluated_and_promoted(context):
    before = champion(context)
    report = daily_update.run(context.settings, date.fromisoformat(DAY))
    after = champion(context)
    assert (report["promoted"], report["verdict"], after.name) == (True, "pass", report["release"])
    assert after.state_until == before.state_until + 86_400
    assert after.learned_until == before.state_until
    assert after.week == "2016-11-29-daily"
    assert after.provenance["fine_tuning"]["why"].startswith("0 plays since training before 2016-11-28")
    assert after.evaluated.learned_until == before.evaluated.learned_until < before.learned_until
    assert {row["split"] for row in after.document("evaluation")} == {"day"}
    for member in before.members:
        for folder in ("members", "evaluated"):
            file = f"{folder}/{member.name}/network.onnx"
            assert (after.folder / file).read_bytes() == (before.folder / file).read_bytes()
    again = daily_update.run(context.settings, date.fromisoformat(DAY))
    assert (again["release"], again["promoted"], again["why"]) == (
        after.name,
        False,
        "already the champion; 0 aliases moved",
    )
    assert rollback.run(context, to=before.name)["rolled_back"]


def use_older_champion(context):
    """Promote a copy of the champion that counts as trained until the test plays of its week, so that they are new."""
    release = champion(context)
    folder = Path(shutil.copytree(release.folder, release.folder.with_name("older")))
    (folder / manifest.NAME).unlink()
    description = release.description | {"trained_until": release.evaluated.learned_until}
    (folder / ANSWERS).write_bytes(files.canonical(description))
    name = bundle.write_manifest(folder)
    folder.rename(folder.with_name(name))
    now = pointer.read(context.release_home)
    pointer.move(context.release_home, now.revision, name, now.week)


def shifted(context, flip):
    """Invert the outcomes of some test plays, as if listeners had changed their behaviour since training."""
    first = datetime.fromtimestamp(champion(context).description["trained_until"], UTC).date()
    days = [p["day"] for p in context.lake.partitions("skip_features") if p["variant"] == "past"]
    for day in [d for d in days if str(first) <= d <= DAY]:
        part = {"variant": "past", "day": day}
        rows = context.lake.read("skip_features", **part)
        listened = rows.column("is_listened")
        changed = pc.if_else(flip(rows), pc.invert(listened), listened)
        at = rows.column_names.index("is_listened")
        context.lake.write("skip_features", rows.set_column(at, "is_listened", changed.cast(pa.bool_())), **part)


def test_members_are_fine_tuned_after_a_change_of_behaviour(context):
    use_older_champion(context)
    build_features.run(context, DAY, DAY)
    shifted(context, lambda rows: rows.column("is_flow"))
    before, day = champion(context), replace(context, week=Week.after_day(date.fromisoformat(DAY)))
    log = snapshot.read_play_log(day, before.cleaning)
    update = incremental_training.update_champion(day, before, DAY, log)
    assert update.report["fine_tuned"], update.report
    assert update.report["brier"] < update.report["champion_brier"]
    for name in update.members:
        member_report = update.report["members"][name]
        assert member_report["loss"] < member_report["loss_before"]
    assert before.description["trained_until"] < update.trained_until
    states = {name: artifacts.write_updated_model(day, model) for name, model in update.members.items()}
    for name, state in states.items():
        plays = incremental_training.read_new_plays(day, before, DAY)
        again = artifacts.load_referenced_model(day, name, state, log)
        update.members[name].log = log
        np.testing.assert_array_equal(again.predict_proba(plays), update.members[name].predict_proba(plays))
    seen_later = {**before.description, "trained_until": update.trained_until}
    before.description = seen_later
    assert incremental_training.read_new_plays(day, before, DAY).ts_N.min() >= update.trained_until


def test_fine_tuned_members_are_compared_with_their_saved_models(context):
    use_older_champion(context)
    build_features.run(context, DAY, DAY)
    shifted(context, lambda rows: rows.column("is_flow"))
    came_from, day = champion(context).name, replace(context, week=Week.after_day(date.fromisoformat(DAY)))
    check.run(day, ["plays"])
    release = SkipRelease(pointer.releases(day.release_home) / bundle.run(day)["release"])
    learned_on = release.provenance["fine_tuning"]["fine_tuned"]
    plays = gate.evaluation_plays(day, release)
    ours = gate.predict(day, release, plays)
    now = pointer.read(day.release_home)
    lines = {line.rule: line for line in gate.update_parity_lines(day, release, now, plays, ours)}
    assert set(lines) == {f"onnx parity {member.name}" for member in release.members}
    for name in learned_on:
        line = lines[f"onnx parity {name}"]
        assert (line.verdict, 0 < line.measured <= 1e-4) == ("pass", True)
    other = gate.Predictions(ours.members_NM + 0.01, ours.listen_N)
    worse = {line.rule: line.verdict for line in gate.update_parity_lines(day, release, now, plays, other)}
    assert {worse[f"onnx parity {name}"] for name in learned_on} == {"fail"}
    elsewhere = gate.update_parity_lines(day, release, replace(now, release="0" * 64), plays, ours)
    assert [(line.verdict, came_from[:12] in line.why) for line in elsewhere] == [("fail", True)]


def test_later_plays_do_not_change_a_daily_update(context):
    build_features.run(context, DAY, DAY)
    day, later = date.fromisoformat("2016-11-29"), "2016-11-30"
    first = daily_update.run(context.settings, day)["release"]
    assert rollback.run(context)["rolled_back"]
    rows = context.lake.read("plays", day=later)
    column = rows.column_names.index("is_listened")
    changed = rows.set_column(column, "is_listened", pc.invert(rows.column("is_listened")))
    context.lake.write("plays", changed.slice(0, changed.num_rows // 2), day=later)
    build_features.run(context, str(day), later)
    assert daily_update.run(context.settings, day)["release"] == first


def test_member_without_saved_model_is_unchanged(context):
    use_older_champion(context)
    before = champion(context)
    shutil.rmtree(context.work / "boosted_trees")
    daily_update.run(context.settings, date.fromisoformat(DAY))
    reason = champion(context).provenance["fine_tuning"]["members"]["boosted_trees"]["why"]
    assert "contains no saved skip model" in reason
    assert str(context.home) not in reason
    file = "members/boosted_trees/network.onnx"
    assert (champion(context).folder / file).read_bytes() == (before.folder / file).read_bytes()


def test_failing_daily_update_keeps_the_champion(context):
    before = pointer.read(context.release_home)
    with pytest.raises(CheckFailed, match="slice flow"):
        daily_update.run(
            with_gate_settings(context, flow_min_auc=1.0, slice_min_plays=1).settings, date.fromisoformat(DAY)
        )
    assert pointer.read(context.release_home) == before
    with pytest.raises(CheckFailed, match="plays: day=2017-03-01 has not been written"):
        daily_update.run(context.settings, date(2017, 3, 1))
    with pytest.raises(CheckFailed, match="later than the end"):
        daily_update.run(context.settings, date(2016, 11, 20))
    shutil.rmtree(context.release_home / "releases")
    with pytest.raises(CheckFailed, match="there is no champion yet"):
        daily_update.run(context.settings, date.fromisoformat(DAY))


def test_invalid_day_raises(command):
    code, _, err = command("skip", "update", "--day", "2016-11-31")
    assert (code, "is not a date" in err) == (2, True)
