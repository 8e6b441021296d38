"""Test the ranker as the method of a release: trained, evaluated as served, compared with the champion, served."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from contracts.errors import CheckFailed
from jobs.cold_start import evaluate, ranker_artifacts, train
from jobs.cold_start.methods import method_factory
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import bundle, gate, pointer, promote
from jobs.release.cold_start import gate as cold_start_gate
from jobs.settings.cold_start import FirstDayNetworkSettings, RankerSettings
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.ranked_candidates import RankedCandidates
from serving.recommend import recommender
from serving.recommend.signals import ListParameters
from serving.release.bundle import open_release
from serving.release.loaded import LoadedRelease
from tests.helpers.as_request import listener


@pytest.fixture(scope="module")
def promoted(finished, tmp_path_factory) -> Context:
    """Copy of the finished week in which the old champion recommends by semi_pers and the new release by the ranker."""
    home = tmp_path_factory.mktemp("ranked") / "home"
    shutil.copytree(finished.home, home)
    old = finished.settings
    changed = {
        "gate": old.gate.model_copy(update={"method": "ranked_candidates", "delta": 0.5, "latency_ms": 1000}),
        "rules": old.rules.model_copy(
            update={"heard": "leave_out", "per_artist": None, "per_album": None, "one_recording": False}
        ),
        "autoencoder": FirstDayNetworkSettings(width=32, epochs=6, batch_users=64),
        "ranker": RankerSettings(candidates=80, scored_folds=1, folds=3, draws=2, trees=40, min_leaf_rows=20),
    }
    context = Context(old.model_copy(update=changed), finished.week, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERTURE_HOME", str(home))
        train.run(context, "tt_svd")
        evaluate.run(context, "tt_svd")
        bundle.run(context)
        gate.run(context)
        promote.run(context)
    return context


def champion(context: Context):
    return open_release(pointer.releases(context.home) / pointer.read(context.home).release)


def test_ranked_release_passes_the_gate_and_is_in_the_evaluation_table(promoted):
    record = gate.read_record(promoted)
    assert pointer.read(promoted.home).release == record["release"] != record["champion"]
    lines = {line["rule"]: line["verdict"] for line in record["lines"]}
    assert lines["better than popularity"] == lines["onnx parity blend"] == lines["onnx parity ranker"] == "pass"
    rows = promoted.lake.read("evaluation", week=promoted.week.name, space="tt_svd").to_pandas()
    assert set(rows.method) == {*promoted.settings.evaluation.methods, "ranked_candidates"}


def test_release_recommends_like_training(promoted):
    cohort, release = cold_start_gate.read_cohort(promoted), champion(promoted)
    assert release.space_and_method == ("tt_svd", "ranked_candidates")
    served = release.spaces["tt_svd"].method("ranked_candidates")
    factory = method_factory(promoted, "tt_svd", lambda *_: None)
    learned = RankedCandidates(factory.candidate_stage, factory.ranker.relevance)
    folder = ranker_artifacts.ranker_folder(promoted, "tt_svd")
    assert ranker_artifacts.parity(folder, release.folder / "tt_svd" / "ranker" / "trees.onnx") < 1e-4
    one, two = (method.stage.score(cohort.days) for method in (served, learned))
    tracks = learned.stage.candidates(two)
    features = served.stage.features(one, tracks)
    np.testing.assert_allclose(features, learned.stage.features(two, tracks), atol=2, rtol=1e-3)  # places may swap
    x_BF = release.inputs("tt_svd", cohort.days)
    ours, theirs = (method.recommend(x_BF, 20, cohort.days) for method in (served, learned))
    same = np.mean([len(set(a) & set(b)) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)])
    assert same > 19.5  # rounding of the autoencoder moves single features over a threshold
    single = served.recommend(x_BF[7:8], 20, cohort.days.rows(7, 8))
    np.testing.assert_array_equal(ours[7:8], single)


def test_service_uses_the_ranker_and_falls_back_to_the_segment(promoted, monkeypatch):
    release, week = champion(promoted), promoted.week.name
    ready = LoadedRelease(release, pointer.read(promoted.home))
    table = promoted.lake.read("first_day", week=week, split="test").slice(0, 20)
    listeners, days = [listener(ready, row) for row in table.to_pylist()], FirstDays.from_arrow(table)
    responses = recommender.recommend(ready, listeners, ListParameters(k=20))
    assert {(response["method"], response["degraded"] is None) for response in responses} == {
        ("ranked_candidates", True)
    }
    method = release.spaces["tt_svd"].method("ranked_candidates")
    lists_BL = method.recommend(release.inputs("tt_svd", days), 60, days)
    heard_BN = release.spaces["tt_svd"].catalogue.streamed_tracks(days).toarray() > 0
    for b, response in enumerate(responses):
        assert response["tracks"] == [track for track in lists_BL[b].tolist() if not heard_BN[b, track]][:20]
    assert ready.is_slow("configured")

    def fails(rows):
        raise RuntimeError("no memory")

    monkeypatch.setattr(ready.space.methods["ranked_candidates"], "rank", fails)
    response = recommender.recommend(ready, listeners[:1], ListParameters(k=5))[0]
    assert (response["method"], response["degraded"]["fallback"]) == ("semi_pers", "semi_pers")
    assert "ranked_candidates failed: no memory" in response["degraded"]["reason"]


def test_next_week_keeps_the_ranker(promoted):
    later = replace(promoted, week=Week(promoted.week.monday + timedelta(weeks=1)))
    kept = ranker_artifacts.kept_ranker(later, "tt_svd")
    assert kept is not None
    assert kept[1] == promoted.week.name


def test_release_without_ranker_raises(finished):
    with pytest.raises(CheckFailed, match="no ranked_candidates in"):
        champion(finished).spaces["tt_svd"].method("ranked_candidates")
