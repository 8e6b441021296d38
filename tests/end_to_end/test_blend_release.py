"""Test the blend as the method of a release: trained, evaluated as served, compared with the champion, published."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from contracts.errors import CheckFailed
from jobs.cold_start import blend_artifacts, evaluate, train
from jobs.cold_start.methods import method_factory
from jobs.platform.context import Context
from jobs.release import bundle, gate, pointer, promote, publish
from jobs.release.cold_start import gate as cold_start_gate
from jobs.settings.cold_start import FirstDayNetworkSettings
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from models.cold_start.list_rules import ListRules
from models.cold_start.methods import recommend_lists
from serving.recommend import recommender
from serving.recommend.signals import ListParameters
from serving.release.bundle import open_release
from serving.release.loaded import LoadedRelease
from tests.helpers.as_request import listener


@pytest.fixture(scope="module")
def promoted(finished, tmp_path_factory) -> Context:
    """Copy of the finished week in which the old champion recommends by semi_pers and the new release by the blend."""
    home = tmp_path_factory.mktemp("blended") / "home"
    shutil.copytree(finished.home, home)
    old = finished.settings
    changed = {
        "gate": old.gate.model_copy(update={"method": "blend", "delta": 0.5, "latency_ms": 1000}),
        "rules": old.rules.model_copy(
            update={"heard": "leave_out", "per_artist": None, "per_album": None, "one_recording": False}
        ),
        "autoencoder": FirstDayNetworkSettings(width=32, epochs=6, batch_users=64),
    }
    context = Context(old.model_copy(update=changed), finished.week, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERTURE_HOME", str(home))
        train.run(context, "tt_svd")
        evaluate.run(context, "tt_svd")
        bundle.run(context)
        gate.run(context)
        promote.run(context)
        context.__dict__["published"] = publish.run(context)
    return context


def champion(context: Context):
    return open_release(pointer.releases(context.home) / pointer.read(context.home).release)


def test_blend_passes_the_same_gate(promoted, finished):
    record = gate.read_record(promoted)
    lines = {line["rule"]: line for line in record["lines"]}
    assert lines["onnx parity blend"]["verdict"] == "pass"
    assert lines["onnx parity blend"]["measured"] <= promoted.settings.gate.parity_tolerance
    assert record["champion"] == pointer.read(finished.home).release, "compared with a release that has no blend"
    assert lines["against champion"]["measured"] is not None
    assert lines["better than popularity"]["verdict"] == "pass"
    assert pointer.read(promoted.home).release == record["release"] != record["champion"]
    assert promoted.__dict__["published"]["release"] == record["release"]


def test_release_predicts_like_training(promoted):
    cohort, release = cold_start_gate.read_cohort(promoted), champion(promoted)
    assert release.space_and_method == ("tt_svd", "blend")
    served = release.spaces["tt_svd"].method("blend")
    learned = method_factory(promoted, "tt_svd", lambda *_: None).blend
    np.testing.assert_allclose(served.scores(cohort.days), learned.scores(cohort.days), atol=1e-4)
    x_BF = release.inputs("tt_svd", cohort.days)
    batch = served.recommend(x_BF, 20, cohort.days)
    single = served.recommend(x_BF[7:8], 20, cohort.days.rows(7, 8))
    np.testing.assert_array_equal(batch[7:8], single)


def test_first_day_tracks_are_excluded_if_configured(promoted):
    cohort, release = cold_start_gate.read_cohort(promoted), champion(promoted)
    taken_BN = release.spaces["tt_svd"].catalogue.streamed_tracks(cohort.days).toarray() > 0
    for method in ("blend", "popularity"):
        with_them, _ = cold_start_gate.recommend(release, "tt_svd", method, cohort, 20, ListRules())
        both = cold_start_gate.recommend(release, "tt_svd", method, cohort, 20, ListRules(heard="leave_out"))
        assert np.take_along_axis(taken_BN, with_them, axis=1).any()
        assert not any(np.take_along_axis(taken_BN, without, axis=1).any() for without in both)


def test_service_uses_the_blend_and_falls_back_to_the_segment(promoted, monkeypatch):
    release, week = champion(promoted), promoted.week.name
    ready = LoadedRelease(release, pointer.read(promoted.home))
    listeners = [
        listener(ready, row) for row in promoted.lake.read("first_day", week=week, split="test").to_pylist()[:30]
    ]
    days = FirstDays.from_arrow(promoted.lake.read("first_day", week=week, split="test").slice(0, 30))
    taken_BN = release.spaces["tt_svd"].catalogue.streamed_tracks(days)
    wanted = recommend_lists(
        release.spaces["tt_svd"].method("blend"), release.inputs("tt_svd", days), 20, days, taken_BN
    )
    responses = recommender.recommend(ready, listeners, ListParameters(k=20))
    assert {(response["method"], response["degraded"] is None) for response in responses} == {("blend", True)}
    assert [response["tracks"] for response in responses] == wanted.tolist()
    singles = [recommender.recommend(ready, [person], ListParameters(k=20))[0]["tracks"] for person in listeners[:5]]
    assert singles == [response["tracks"] for response in responses[:5]]

    def fails(tokens_BV):
        raise RuntimeError("no memory")

    monkeypatch.setattr(ready.space.methods["blend"].autoencoder, "scores", fails)
    response = recommender.recommend(ready, listeners[:1], ListParameters(k=5))[0]
    assert (response["method"], response["degraded"]["fallback"]) == ("semi_pers", "semi_pers")
    assert "no memory" in response["degraded"]["reason"]


def test_blend_is_in_the_evaluation_table_and_in_mlflow(promoted, finished):
    week = promoted.week.name
    rows = promoted.lake.read("evaluation", week=week, space="tt_svd").to_pandas()
    assert set(rows.method) == {*promoted.settings.evaluation.methods, "blend"}
    assert "blend" not in set(promoted.lake.read("evaluation", week=week, space="ut_als").to_pandas().method)
    tracker = Tracker.connect(promoted)
    runs = tracker.client.search_runs([tracker.experiment_id], "tags.task = 'train' and tags.space = 'tt_svd'")
    newest = max(runs, key=lambda run: run.info.start_time)
    assert len(tracker.client.get_metric_history(newest.info.run_id, "first_day_autoencoder.loss")) == 6
    name = promoted.mlflow_names.registered_model
    version = tracker.client.get_model_version_by_alias(name, "champion")
    assert version.tags["release"] == pointer.read(promoted.home).release
    import mlflow

    mlflow.set_tracking_uri(tracker.uri)
    signature = mlflow.models.get_model_info(f"models:/{name}@champion").signature
    assert [spec.type for spec in signature.inputs.inputs] == [np.dtype(np.int64)]
    assert signature.outputs.inputs[0].shape == (-1, promoted.lake.rows("catalog", week=week))


def test_release_without_blend_raises(finished):
    release = champion(finished)
    with pytest.raises(CheckFailed, match="no blend in"):
        release.spaces["tt_svd"].method("blend")


def test_inconsistent_blend_files_raise(promoted, finished, tmp_path):
    artifacts = blend_artifacts.blend_folder(promoted, "tt_svd")
    catalogue = champion(promoted).spaces["tt_svd"].catalogue
    other = tmp_path / "tt_svd" / "blend"
    shutil.copytree(artifacts, other)
    layout = json.loads((other / "layout.json").read_text())
    (other / "layout.json").write_text(json.dumps({**layout, "countries": layout["countries"][:-1]}))
    with pytest.raises(CheckFailed, match=r"tt_svd/blend: layout\.json is of another catalogue"):
        blend_artifacts.read(other, catalogue)
    home = tmp_path / "home"
    shutil.copytree(promoted.work, home / promoted.work.relative_to(promoted.home))
    moved = Context(promoted.settings, promoted.week, home)
    scores = moved.work / "tt_svd" / "blend" / "neighbours.scores.npy"
    scores.write_bytes(scores.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    with pytest.raises(CheckFailed, match=r"neighbours\.scores\.npy is damaged; run `overture train --space tt_svd`"):
        blend_artifacts.blend_folder(moved, "tt_svd")
    with pytest.raises(CheckFailed, match="blend: week 2026-11-16 has none in tt_svd"):
        blend_artifacts.blend_folder(Context(promoted.settings, promoted.week, tmp_path / "empty"), "tt_svd")
