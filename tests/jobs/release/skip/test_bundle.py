"""Tests of skip releases: reproducible, evaluated, promoted; bit-identical online features; the submission."""

from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.release import bundle, gate, pointer, promote, rollback, rules
from jobs.release.skip import bundle as skip_bundle
from jobs.release.skip import gate as skip_gate
from jobs.release.skip import snapshot, submission
from jobs.settings.settings import load
from jobs.settings.skip import GateSettings, MemberName, SkipSettings
from jobs.skip import artifacts, build_features, dataset, onnx_export, spark_groups
from jobs.tracking.tracker import Tracker
from models.skip.estimators import registry
from models.skip.evaluation.metrics import auc
from models.skip.features.columns import as_plays
from models.skip.features.counter_state import from_rows
from models.skip.features.shared import KINDS, DailyCounts
from serving.skip import answers
from serving.skip.release import ANSWERS
from serving.skip.schema import RecentPlay, SkipRequest, TrackReference
from tests.helpers import skip_week
from tests.helpers.skip_week import BEFORE, DAY, champion, with_gate_settings


@pytest.fixture
def context(skip_week_home, tmp_path, monkeypatch):
    return skip_week.copied(skip_week_home, tmp_path, monkeypatch)


def test_repeated_training_gives_the_same_release(context):
    before = bundle.release_of_week(context)
    skip_week.train_and_evaluate(context)
    assert bundle.run(context)["release"] == before


def test_release_passes_every_line_of_the_gate(context):
    lines = {line["rule"]: line for line in gate.read_record(context)["lines"]}
    members = [member["name"] for member in champion(context).description["members"]]
    assert members == list(skip_week.SMALL["blend"]["members"])
    for rule in [f"onnx parity {name}{split}" for name in members for split in ("", " (time split)")]:
        assert lines[rule]["measured"] <= 1e-4
    assert lines.pop("unseen listeners")["verdict"] == "skip"
    assert lines.pop("against anchor")["why"].startswith("not applicable")
    assert {line["verdict"] for line in lines.values()} == {"pass"}
    assert "models of the time split" in lines["better than user rate"]["why"]
    heaviest = max(champion(context).description["members"], key=lambda member: member["weight"])["name"]
    assert skip_bundle.registered_network(context, champion(context).folder) == f"members/{heaviest}"
    assert "blend.auc" in skip_bundle.summary(context)


def test_release_serves_the_refitted_models_and_contains_those_of_the_time_split(context):
    release, labelled = champion(context), skip_bundle.read_blend_plays(context)[0]
    as_of, test_start = int(context.week.as_of.timestamp()), skip_bundle.first_unseen_second(context, labelled)
    assert (release.learned_until, release.description["trained_until"]) == (as_of, as_of)
    assert release.evaluated.learned_until == test_start < as_of
    plays = skip_gate.evaluation_plays(context, release.evaluated)
    assert plays.ts_N[0] >= test_start
    served, evaluated = (skip_gate.predict(context, one, plays) for one in (release, release.evaluated))
    for m, member in enumerate(release.members):
        scores = artifacts.read_scores(context, member.name).test
        np.testing.assert_allclose(evaluated.members_NM[:, m], scores.proba_N, atol=1e-4)
        log = snapshot.read_play_log(context, release.cleaning)
        refitted = artifacts.load_model(context, member.name, artifacts.REFITTED)
        proba_N = refitted.predict_proba(skip_gate.clean(release, plays))
        np.testing.assert_allclose(served.members_NM[:, m], proba_N, atol=1e-4)
        assert np.abs(served.members_NM[:, m] - evaluated.members_NM[:, m]).max() > 1e-3
        assert len(log) == len(labelled.plays)
    np.testing.assert_array_equal(release.mix.weights_M, release.evaluated.mix.weights_M)
    earlier = dict(release.description)
    del earlier["evaluated"]
    release.description = earlier  # a release of an earlier version
    del release.evaluated
    assert release.evaluated is release


def test_gain_of_unseen_listeners_must_not_be_below_zero():
    """The interval of the gain decides: above 0 pass, below 0 fail, around 0, or with too few plays, nothing."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 2, 200).astype(np.int8)
    user_N, good_N, noise_N = np.arange(200) // 2, 0.3 * labels_N + rng.random(200), rng.random(200)
    settings = GateSettings(slice_min_plays=50)

    def line(ours_N, baseline_N, gate=settings):
        return skip_gate.gain_line(labels_N, ours_N, baseline_N, user_N, gate, 1)

    passed = line(good_N, noise_N)
    assert (passed.rule, passed.bound, passed.verdict) == ("unseen listeners", 0.0, "pass")
    assert 0 < passed.measured < auc(labels_N, good_N) - auc(labels_N, noise_N)
    assert "200 plays of 100 listeners" in passed.why
    assert line(noise_N, good_N).verdict == "fail"
    assert line(noise_N, rng.random(200)).verdict == "skip"
    assert line(good_N, noise_N, GateSettings(slice_min_plays=150)).verdict == "skip"


def test_scores_of_the_baseline_must_belong_to_the_blend(context):
    release = champion(context)
    plays = skip_gate.evaluation_plays(context, release.evaluated)
    ours = skip_gate.predict(context, release.evaluated, plays)
    assert skip_gate.unseen_listeners_line(context, ours).verdict == "skip"  # the simulated listeners all have plays
    digest = skip_bundle.read_blend_plays(context)[1]
    artifacts.write_baseline(context, artifacts.read_baseline(context, digest), "other plays")
    with pytest.raises(CheckFailed, match="of other plays than the blend; run `overture skip evaluate"):
        skip_gate.unseen_listeners_line(context, ours)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"margin_over_rate": 0.5}, "better than user rate"),
        ({"flow_min_auc": 1.0}, "slice flow"),
        ({"max_calibration_error": 0.0}, "calibration error"),
        ({"parity_tolerance": 1e-12}, "onnx parity session_gru"),
        ({"latency_ms": 1e-6}, "latency p99 ms"),
    ],
)
def test_each_rule_fails_outside_its_bound(context, change, rule):
    with pytest.raises(CheckFailed, match=rule):
        gate.run(with_gate_settings(context, **change))
    with pytest.raises(CheckFailed, match="the gate failed release"):
        promote.run(context)


def test_too_few_evaluation_plays_raise(context):
    with pytest.raises(CheckFailed, match="min_plays = 1000000"):
        gate.run(with_gate_settings(context, min_plays=1_000_000))


def test_worse_release_fails_against_the_champion(context):
    release = champion(context)
    plays = skip_gate.evaluation_plays(context, release.evaluated)
    ours = skip_gate.predict(context, release.evaluated, plays)
    rule = rules.CHAMPION_RULE
    line = skip_gate.rival_line(context, rule, release, release.name, plays, ours)
    assert (line.verdict, line.why) == ("pass", "the same release")
    name, folder = release.name, release.folder.with_name("x" * 64)
    noise = skip_gate.Predictions(ours.members_NM, np.random.default_rng(0).random(len(plays)))
    strict = with_gate_settings(context, delta=0.01)
    line = skip_gate.rival_line(strict, rule, _as(release, folder), name, plays, noise)
    assert (line.verdict, "worse by more than 0.01" in line.why) == ("fail", True)
    [_, anchor] = skip_gate.rival_lines(context, release, None, None, plays, ours)
    assert (anchor.verdict, "not applicable" in anchor.why) == ("skip", True)


def _as(release, folder):
    release.folder = folder
    return release


def test_champion_is_intact_after_a_crash_between_two_writes(context, monkeypatch):
    before = champion(context).name
    skip = context.settings.skip.model_copy(update={"recipes": {"boosted_trees": {"rounds": 5}}})
    context.settings = context.settings.model_copy(update={"skip": skip})
    from jobs.skip import blend, train

    train.run(context, "boosted_trees")
    blend.run(context)
    new = bundle.run(context)["release"]
    assert new != before
    gate.run(context)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pointer, "move", crash)
    with pytest.raises(KeyboardInterrupt):
        promote.run(context)
    monkeypatch.undo()
    monkeypatch.setenv("OVERTURE_HOME", str(context.home))
    assert champion(context).name == before
    assert promote.run(context)["champion"] == new
    assert rollback.run(context)["to"] == before


def test_damaged_release_raises(context):
    release = champion(context)
    (release.folder / ANSWERS).write_text("{}")
    with pytest.raises(CheckFailed, match=ANSWERS):
        skip_gate.check_loads(release.folder)


def test_only_models_with_an_onnx_form_can_be_members_of_the_blend():
    exportable = {name for name in registry.NAMES if onnx_export.has_onnx_form(registry.make(name))}
    assert exportable == set(get_args(MemberName))
    with pytest.raises(ValueError, match=r"blend\.members"):
        SkipSettings.model_validate({"blend": {"members": ["boosted_trees", "graphsage"]}})


def test_plays_changed_since_training_raise(context):
    table = context.lake.read("skip_features", variant="past", day="2016-11-03")
    context.lake.write("skip_features", table.slice(1), variant="past", day="2016-11-03")
    with pytest.raises(CheckFailed, match="have changed since the blend"):
        bundle.run(context)


# -- features ------------------------------------------------------------------------------------------------------


def day_rows(context, labels):
    """Return the plays of the day as Spark passes them to the group functions; without labels if `labels` is False."""
    plays = context.lake.read("plays", day=DAY).sort_by([("ts", "ascending"), ("play_id", "ascending")])
    listened = plays.column("is_listened").cast(pa.int64())
    seconds = pc.divide(plays.column("ts").cast(pa.int64()), 1_000_000)
    flow = plays.column("is_flow").cast(pa.int32())
    columns = {
        "platform_flow": pa.array(flow.to_numpy() + 2 * plays.column("platform_name").to_numpy()),
        "ts": seconds,
        "release_day": plays.column("release_date").cast(pa.int32()).cast(pa.float64()),
        "daypart": pa.array(seconds.to_numpy() % 86_400 // 21_600),
        "listened": pc.fill_null(listened, -1) if labels else pa.array(np.full(plays.num_rows, -1)),
    }
    return pa.table(
        {
            name: columns.get(name, plays.column(name) if name in plays.column_names else None)
            for name, _ in spark_groups.PLAY_COLUMNS
        }
    )


def features_by_kernels(context, rows):
    """Return the rows of skip_features for these plays on top of the state of the day before."""
    state = context.lake.read("skip_state", day=BEFORE)
    (whole,) = state.filter(pc.equal(state.column("kind"), "all")).to_pylist()
    prior = (whole["n_listened"] + 1) / (whole["n_plays"] + 2)
    chosen = context.settings.skip.features
    counted = spark_groups.add_track_counts(rows, state, leaky=False)
    day = int(rows.column("ts")[0].as_py()) // 86_400
    nothing = dict.fromkeys(("key", "other", "day", "n_plays", "n_listened"), np.zeros(0, np.int64))
    carried = spark_groups.to_state_rows(state)
    shared = {
        kind: DailyCounts.from_entries(nothing, from_rows(carried, kind)) for kind in KINDS
    }  # only earlier days count
    settings = spark_groups.FeatureSettings(chosen.session_gap_min * 60, chosen.smoothing)
    return spark_groups.compute_features(counted, state, prior={day: prior}, shared=shared, settings=settings)


def cleaned(release, table):
    """Return rows of the feature table as the reader returns them, cleaned by the release."""
    columns = {name: dataset.column_values(table, name) for name in table.column_names}
    columns |= {name: table.column(name).to_numpy() for name in release.names}
    return release.cleaned(as_plays(columns, {}, release.names, release.categories))


def request_of(row, recent=()):
    at = datetime.fromtimestamp(row["ts"].timestamp(), UTC)
    return SkipRequest(
        user_id=str(row["user_id"]),
        gender=row["user_gender"],
        age=row["user_age"],
        context_type=row["context_type"],
        platform_name=row["platform_name"],
        platform_family=row["platform_family"],
        is_flow=row["is_flow"],
        at=at,
        tracks=[TrackReference(track_id=str(row["track_id"]))],
        recent=list(recent),
    )


def count_identical(release, table, requests):
    """Return for how many plays of known tracks the online features are bit-identical to the table."""
    wanted, n = cleaned(release, table), 0
    metadata = ("artist_id", "album_id", "genre_id", "duration_s")
    for i, (row, request) in enumerate(zip(table.to_pylist(), requests, strict=True)):
        known, there = release.state.tracks_of(np.asarray([row["track_id"]]))
        if not there[0] or any(known[name][0] != row[name] for name in metadata):
            continue
        if np.isnan(known["release_day"][0]) != (row["song_age_days"] is None):
            continue
        predictions = answers.predict(release, request, answers.read_ids(release, request, request.tracks)).plays
        np.testing.assert_array_equal(predictions.numbers_NF[0], wanted.numbers_NF[i])
        for name in release.categories:
            assert predictions.categories[name][0] == wanted.categories[name][i], name
        n += 1
    return n


def test_online_features_are_bit_identical_to_the_table(context):
    release = champion(context)
    table = features_by_kernels(context, day_rows(context, labels=False))
    assert count_identical(release, table, [request_of(row) for row in table.to_pylist()]) > 30


def test_recent_plays_are_counted_as_in_the_table(context):
    release = champion(context)
    rows = day_rows(context, labels=True)
    rows = rows.filter(pc.greater_equal(rows.column("listened"), 0))
    known = pa.array(release.state.tracks["track_id"])
    rows = rows.filter(pc.is_in(rows.column("track_id"), known))
    users, n = np.unique(rows.column("user_id").to_numpy(), return_counts=True)
    rows = rows.filter(pc.equal(rows.column("user_id"), int(users[np.argmax(n)])))
    table = features_by_kernels(context, rows)
    plays = table.to_pylist()
    recent = [
        RecentPlay(
            track_id=str(p["track_id"]),
            at=p["ts"],
            listened=p["is_listened"],
            is_flow=p["is_flow"],
            **{name: p[name] for name in ("context_type", "platform_name", "platform_family")},
        )
        for p in plays
    ]
    requests = [request_of(row, [play for play in recent if play.at < row["ts"]]) for row in plays]
    assert count_identical(release, table, requests) > 5
    predictions = answers.predict(release, requests[-1], answers.read_ids(release, requests[-1], requests[-1].tracks))
    recent_plays = predictions.recent
    assert recent_plays["used"] == len(requests[-1].recent)
    log = snapshot.read_play_log(replace_week(context), release.cleaning)
    features_of = cleaned(release, table.slice(len(plays) - 1))
    listen = release.predict(features_of, log)
    assert predictions.listen_N == pytest.approx(listen, abs=1e-6)


def replace_week(context):
    build_features.run(context, DAY, DAY)
    return skip_week.at(context.home, week="2016-12-05")


# -- the submission ------------------------------------------------------------------------------------------------


def sample_ids(context):
    plays = [
        context.lake.read("plays", **p)
        for p in context.lake.partitions("plays")
        if p["day"] < snapshot.end_day(context)
    ]
    ids = pa.concat_tables(plays).column("sample_id").drop_null().to_pylist()
    assert ids
    return ids


def test_submission_has_every_row_in_the_order_of_the_file(context, tmp_path):
    ids = sample_ids(context)[::-1]
    (tmp_path / "test.csv").write_text("sample_id,x\n" + "".join(f"{sample_id},1\n" for sample_id in ids))
    out = tmp_path / "out.csv"
    report = submission.run(context, tmp_path, out)
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["sample_id", "is_listened"]
    assert [int(sample_id) for sample_id, _ in rows[1:]] == ids
    assert all(0 < float(p) < 1 for _, p in rows[1:])
    assert report["rows"] == len(ids)
    first = out.read_bytes()
    submission.run(context, tmp_path, out)
    assert out.read_bytes() == first


def test_rows_without_features_fall_back_to_rates(context, tmp_path):
    """A row of 1970, of an unknown listener or track, or with unreadable ids gets a rate, and is counted."""
    labelled, _ = skip_bundle.read_blend_plays(context)
    plays, labels_N = labelled.plays, labelled.plays.labels()
    user, track = int(plays.user_N[0]), int(plays.track_N[0])
    smoothing, mean = context.settings.skip.features.smoothing, labels_N.mean()

    def rate(of_N):
        return (labels_N[of_N].sum() + smoothing * mean) / (of_N.sum() + smoothing)

    known = sample_ids(context)[0]
    rows = {
        known: (5, 6, 1_478_000_000),
        900_001: (user, track, 0),
        900_002: (10**12, track, 0),
        900_003: (10**12, 10**12, 0),
        900_004: ("", "x", "x"),
    }
    lines = [f"{sample_id},{user_id},{media},{ts}" for sample_id, (user_id, media, ts) in rows.items()]
    (tmp_path / "test.csv").write_text("sample_id,user_id,media_id,ts_listen\n" + "\n".join(lines))
    out = tmp_path / "out.csv"
    report = submission.run(context, tmp_path, out)
    predicted = {int(row.split(",")[0]): float(row.split(",")[1]) for row in out.read_text().splitlines()[1:]}
    assert list(predicted) == list(rows)
    assert predicted[900_001] == pytest.approx(rate(plays.user_N == user), abs=1e-6)
    assert predicted[900_002] == pytest.approx(rate(plays.track_N == track), abs=1e-6)
    assert predicted[900_003] == predicted[900_004] == pytest.approx(mean, abs=1e-6)
    counts = {key: report[key] for key in ("rows", "fallback", "listener_rate", "track_rate", "mean_rate")}
    assert counts == {"rows": 5, "fallback": 4, "listener_rate": 1, "track_rate": 1, "mean_rate": 2}
    logged = Tracker.connect(context).client.get_run(report["mlflow_run"]).data.metrics
    assert (logged["fallback"], logged["mean_rate"]) == (4, 2)


def test_submission_raises_for_bad_files(context, tmp_path, command, monkeypatch):
    with pytest.raises(BadArgument, match=r"contains no test\.csv"):
        submission.run(context, tmp_path, tmp_path / "out.csv")
    test = tmp_path / "test.csv"
    for text, message in (
        ("sample_id\n1\n1\n", "sample ids are duplicates"),
        ("x\n1\n", "column 'sample_id' is missing"),
        ("sample_id\nx\n", "is not an integer"),
        ("sample_id\n", "no rows"),
    ):
        test.write_text(text)
        with pytest.raises(CheckFailed, match=message):
            submission.run(context, tmp_path, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    code, _, err = command("skip", "submit", "--data", tmp_path / "no", "--out", tmp_path / "o", "--week", DAY)
    assert (code, "test.csv" in err) == (2, True)


def test_pipelines_name_the_models_that_the_settings_train():
    source = (Path(__file__).parents[4] / "dags" / "tasks.py").read_text()
    names = source.split("SKIP_MODELS = (")[1].split(")")[0].replace('"', "").split(",")
    assert tuple(name.strip() for name in names if name.strip()) == SkipSettings().models
    assert load(Path(__file__).parents[4] / "configs" / "skip.yaml").skip.models == SkipSettings().models
