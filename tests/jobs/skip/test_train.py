"""Tests of training, blending, evaluation, tuning and leakage on a small simulated service."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.dsg17 import adapter as dsg17
from jobs.ingest.dsg17 import generate as dsg17_make
from jobs.platform.context import Context
from jobs.settings.settings import load
from jobs.settings.skip import EVERY, SkipSettings
from jobs.skip import artifacts, blend, build_features, dataset, evaluate, leakage, train, tune
from jobs.tracking.tracker import Tracker
from models.skip.data import splits
from models.skip.estimators import registry
from models.skip.estimators.search_spaces import Choice
from models.skip.evaluation import metrics
from tests.helpers.skip_tables import skip_context

MODELS = ("boosted_trees", "logistic_features", "session_gru", "collaborative")
SMALL = {
    "models": MODELS,
    "features": {"rows_per_group": 2_000},
    "recipes": {"boosted_trees": {"rounds": 40}, "session_gru": {"epochs": 2, "hidden": 8, "length": 5}},
    "blend": {"members": ["boosted_trees", "logistic_features", "session_gru"], "folds": 2},
    "evaluation": {
        "n_bootstrap": 40,
        "min_class_plays": 20,
        "importance_draws": 1,
        "learning_steps": 2,
        "importance_plays": 300,
    },
    "leakage": {"models": ["boosted_trees", "logistic_features"], "max_plays": 3_000},
    "tuning": {"startup_trials": 2},
}


def at(home, **changes):
    """Return the skip engine's context over a home, with changes to the small settings."""
    base = skip_context(home)
    settings = base.settings.model_copy(update={"skip": SkipSettings.model_validate({**SMALL, **changes})})
    return Context(settings, base.week, home, "skip")


@pytest.fixture(scope="module")
def trained_week(spark, tmp_path_factory):
    """Return the context of a trained and blended week, and the reports of its jobs."""
    folder = tmp_path_factory.mktemp("skip")
    dsg17_make.run(folder / "data", 4_000)
    context = at(folder / "home")
    dsg17.run(context, folder / "data")
    build_features.run(context)
    build_features.run(context, leaky=True)
    reports = {name: train.run(context, name) for name in MODELS}
    return context, reports | {"blend": blend.run(context)}


def other(trained_week, tmp_path, **changes):
    """Return a context with a home of its own over the same lake, where nothing is trained yet."""
    context = at(tmp_path / "home", **changes)
    context.lake = trained_week[0].lake
    return context


def runs(context, **tags):
    tracker = Tracker.connect(context)
    return tracker.search_runs({key: str(value) for key, value in tags.items()})


class TestSettings:
    def test_setting_accepts_the_names_of_the_registry(self):
        assert EVERY == registry.NAMES

    def test_blend_members_and_explained_model_must_be_trained(self):
        for changes, message in (
            ({"models": ["boosted_trees"]}, "blend.members: logistic_features"),
            ({"models": ["boosted_trees", "boosted_trees"]}, "models: at least one, each once"),
            ({"models": ["fm"], "blend": {"members": ["fm"]}}, "evaluation.explained_model: boosted_trees"),
        ):
            with pytest.raises(ValueError, match=message):
                SkipSettings.model_validate(changes)

    def test_recipes_of_the_skip_config_are_valid(self):
        chosen = load(Path(__file__).parents[3] / "configs" / "skip.yaml").skip
        for name in chosen.models:
            registry.make(name, chosen.recipes.get(name))


class TestTrain:
    def test_scores_equal_predictions_of_the_saved_model(self, trained_week):
        context, _ = trained_week
        labelled = train.read_plays(context, MODELS)
        for name in MODELS:
            scores, model = artifacts.read_scores(context, name), artifacts.load_model(context, name)
            assert (labelled.split_N[scores.place_N] == scores.split_N).all()
            assert set(np.unique(scores.split_N)) == {splits.VALIDATION, splits.TEST}
            np.testing.assert_array_equal(scores.listened_N, labelled.plays.labels()[scores.place_N])
            test = labelled.of_split(splits.TEST)
            np.testing.assert_allclose(scores.test.proba_N, model.predict_proba(test), atol=1e-7)
            np.testing.assert_array_equal(scores.test.user_N, test.user_N)

    def test_report_contains_auc_and_recipe(self, trained_week):
        context, reports = trained_week
        report, scores = (
            artifacts.read_report(context, "boosted_trees"),
            artifacts.read_scores(context, "boosted_trees"),
        )
        assert report["auc"]["test"] == pytest.approx(metrics.auc(scores.test.listened_N, scores.test.proba_N))
        assert report["auc"]["test_low"] < report["auc"]["test"] < report["auc"]["test_high"]
        assert report["recipe"]["rounds"] == 40
        assert reports["boosted_trees"]["auc"] == report["auc"]
        assert sum(report["sizes"].values()) == len(train.read_plays(context, MODELS).plays)

    def test_candidates_are_fitted_again_on_all_plays(self, trained_week):
        """The refitted model has the passes that validation chose, has seen every labelled play, and is not scored."""
        context, _ = trained_week
        report = artifacts.read_report(context, "boosted_trees")
        losses = report["losses"]["validation"]
        assert report["refit"] == {"plays": sum(report["sizes"].values()), "passes": 1 + int(np.argmin(losses))}
        labelled = train.read_plays(context, MODELS)
        again = train.model_factory(context)("boosted_trees")
        again.refit(labelled.plays, report["refit"]["passes"], report["seed"])
        refitted = artifacts.load_model(context, "boosted_trees", artifacts.REFITTED)
        test = labelled.of_split(splits.TEST)
        np.testing.assert_array_equal(refitted.predict_proba(test), again.predict_proba(test))
        assert refitted.booster.num_trees() == report["refit"]["passes"]
        scores = artifacts.read_scores(context, "boosted_trees").test
        assert np.abs(refitted.predict_proba(test) - scores.proba_N).max() > 1e-3
        with pytest.raises(CheckFailed, match="collaborative: was not fitted on all plays"):
            artifacts.load_model(context, "collaborative", artifacts.REFITTED)

    def test_only_blend_candidates_have_folds(self, trained_week):
        context, _ = trained_week
        folds = artifacts.read_folds(context, "boosted_trees")
        train_places = np.flatnonzero(train.read_plays(context, MODELS).split_N == splits.TRAIN)
        np.testing.assert_array_equal(folds.place_N, train_places[-len(folds.place_N) :])
        with pytest.raises(CheckFailed, match="collaborative: was trained without folds"):
            artifacts.read_folds(context, "collaborative")

    def test_repeated_training_gives_equal_scores(self, trained_week, tmp_path):
        context = other(trained_week, tmp_path)
        for _ in range(2):
            train.run(context, "logistic_features")
            for first, second in zip(
                vars(artifacts.read_scores(trained_week[0], "logistic_features")).values(),
                vars(artifacts.read_scores(context, "logistic_features")).values(),
                strict=True,
            ):
                np.testing.assert_array_equal(first, second)

    def test_plays_from_as_of_on_are_not_used(self, trained_week, tmp_path):
        context = other(trained_week, tmp_path)
        earlier = Context(context.settings, type(context.week).parse("2016-11-21"), context.home, "skip")
        earlier.lake = context.lake
        train.run(earlier, "logistic_features")
        place = artifacts.read_scores(earlier, "logistic_features").place_N.max()
        plays = dataset.read_labelled(context, ()).plays
        cut = int(earlier.week.as_of.timestamp())
        assert plays.ts_N[place] < cut <= plays.ts_N[place + 1]

    def test_run_has_recipe_curves_and_input_partitions(self, trained_week):
        context, reports = trained_week
        run = Tracker.connect(context).client.get_run(reports["boosted_trees"]["mlflow_run"])
        assert run.data.params["rounds"] == "40"
        assert {"validation_loss", "train_loss", "validation_auc", "test_auc", "fit_s", "peak_mib"} <= set(
            run.data.metrics
        )
        assert run.inputs.dataset_inputs[0].dataset.name.startswith("skip_features/variant=past/day=")
        assert context.mlflow_names.experiment == "skip_weekly"

    def test_unknown_model_or_recipe_is_a_bad_argument(self, trained_week, tmp_path):
        context = other(
            trained_week, tmp_path, recipes={"boosted_trees": {"branches": 3}, "logistic_features": {"c": -1}}
        )
        for name, message in (
            ("bosted_trees", "no 'bosted_trees'; there are"),
            ("boosted_trees", "the recipe has no branches"),
            ("logistic_features", "c must be above 0"),
        ):
            with pytest.raises(BadArgument, match=message):
                train.run(context, name)

    def test_missing_features_name_the_command(self, tmp_path):
        with pytest.raises(CheckFailed, match="run `overture skip features`"):
            train.run(at(tmp_path / "home"), "boosted_trees")

    def test_split_of_one_class_raises(self, trained_week, tmp_path):
        context = other(trained_week, tmp_path)
        source = context.lake
        days = [p for p in source.partitions("skip_features") if p["variant"] == "past"]
        context = at(tmp_path / "other")
        for place, p in enumerate(days):
            table = source.read("skip_features", **p)
            if place > len(days) // 2:  # the test plays and more were listened to
                outcomes = pa.array([None if v is None else True for v in table.column("is_listened").to_pylist()])
                table = table.set_column(table.schema.get_field_index("is_listened"), "is_listened", outcomes)
            context.lake.write("skip_features", table, **p)
        with pytest.raises(CheckFailed, match=r"all \d+ (validation|test) plays were listened to"):
            train.run(context, "logistic_features")


class TestSavedModels:
    def test_files_of_different_training_runs_raise(self, trained_week, tmp_path):
        context = other(trained_week, tmp_path)
        train.run(context, "logistic_features")
        file = artifacts.artifact_dir(context, "logistic_features") / artifacts.SCORES
        file.write_bytes((artifacts.artifact_dir(trained_week[0], "boosted_trees") / artifacts.SCORES).read_bytes())
        with pytest.raises(CheckFailed, match="does not match the JSON beside it"):
            artifacts.read_scores(context, "logistic_features")
        file.unlink()
        with pytest.raises(CheckFailed, match="missing"):
            artifacts.read_scores(context, "logistic_features")

    def test_untrained_model_names_the_command(self, trained_week, tmp_path):
        context = other(trained_week, tmp_path)
        with pytest.raises(CheckFailed, match="overture skip train --model fm --week 2016-12-05"):
            artifacts.read_report(context, "fm")
        with pytest.raises(CheckFailed, match="overture skip blend"):
            artifacts.read_blend(context)


class TestBlend:
    def test_saved_blend_predicts_its_scores(self, trained_week):
        context, _ = trained_week
        labelled, scores = train.read_plays(context, MODELS), artifacts.read_scores(context, "blend")
        whole_blend = artifacts.load_blend(context)
        np.testing.assert_allclose(
            whole_blend.predict_proba(labelled.of_split(splits.TEST)), scores.test.proba_N, atol=1e-6
        )
        document = artifacts.read_blend(context)
        assert list(whole_blend.members) == document["members"]
        assert set(document["members"]) | set(document["excluded"]) == set(context.settings.skip.blend.members)

    def test_blend_with_a_retrained_member_raises(self, trained_week, tmp_path):
        context = other(trained_week, tmp_path, blend={"members": ["logistic_features"], "folds": 2})
        train.run(context, "logistic_features")
        blend.run(context)
        changed = {"c": 0.5}
        again = other(
            trained_week,
            tmp_path,
            blend={"members": ["logistic_features"], "folds": 2},
            recipes={"logistic_features": changed},
        )
        train.run(again, "logistic_features")
        with pytest.raises(CheckFailed, match="logistic_features was trained again since"):
            artifacts.read_scores(again, "blend")

    def test_candidates_trained_on_other_plays_raise(self, trained_week, tmp_path):
        members = {"members": ["boosted_trees", "logistic_features"], "folds": 2}
        context = other(trained_week, tmp_path, blend=members)
        train.run(context, "boosted_trees")
        train.run(
            other(trained_week, tmp_path, blend=members, split={"train": 0.6, "validation": 0.2}), "logistic_features"
        )
        with pytest.raises(CheckFailed, match="logistic_features was trained on other plays"):
            blend.run(context)


def test_evaluation_has_every_model_and_slice(trained_week):
    context, reports = trained_week
    report = evaluate.run(context)
    frame = context.lake.read("skip_evaluation", week=context.week.name).to_pandas()
    assert set(frame.model) == {*MODELS, "blend", "raw_columns"}
    assert not frame.duplicated(["model", "split", "slice", "metric"]).any()
    assert {"all", "flow=yes", "flow=no", "user=known", "track=known", "platform=0"} <= set(frame.slice)
    test = frame[(frame.model == "blend") & (frame.split == "test")].set_index(["slice", "metric"])
    scores = artifacts.read_scores(context, "blend").test
    assert test.value["all", "auc"] == pytest.approx(reports["blend"]["auc"]["test"])
    assert test.n["flow=yes", "auc"] == scores.is_flow_N.sum()
    baseline = artifacts.read_baseline(context, artifacts.digest_of(train.read_plays(context, MODELS))).test
    np.testing.assert_array_equal(baseline.place_N, scores.place_N)
    gain = metrics.auc(scores.listened_N, scores.proba_N) - metrics.auc(baseline.listened_N, baseline.proba_N)
    assert test.value["all", "auc_gain"] == pytest.approx(gain)
    assert test.low["all", "auc_gain"] < gain < test.high["all", "auc_gain"]
    labelled = train.read_plays(context, MODELS)
    user_N, is_train_N = labelled.plays.user_N, labelled.split_N == splits.TRAIN
    new_user = user_N[is_train_N][0]
    without_N = np.where(is_train_N & (user_N == new_user), splits.EXCLUDED, labelled.split_N).astype(np.int8)
    unseen_N = dataset.LabelledPlays(labelled.plays, without_N, labelled.cleaning).of_unseen_listeners()
    np.testing.assert_array_equal(unseen_N & ~labelled.of_unseen_listeners(), user_N == new_user)
    with pytest.raises(CheckFailed, match="is of other plays than the blend"):
        artifacts.read_baseline(context, "x")
    cells = [test.value["all", name] for name in evaluate.COUNTS]
    assert sum(cells) == len(scores.proba_N)
    assert cells[0] == ((scores.proba_N >= 0.5) & (scores.listened_N == 1)).sum()
    for name in ("f1", "brier", "accuracy_best"):
        row = test.loc[("all", name)]
        assert row.low <= row.value <= row.high
    client = Tracker.connect(context).client
    names = {item.path for item in client.list_artifacts(report["mlflow_run"])}
    assert {
        "auc.png",
        "slices.png",
        "curves.png",
        "reliability.png",
        "confusion_blend.png",
        "losses.png",
        "importance.png",
        "learning_curve.png",
        "reasons.json",
        "evaluation.json",
    } <= names
    assert all("likely to" in line for line in report["reasons"])
    again = evaluate.run(context)
    assert again["auc"] == report["auc"]


def test_tuning_continues_and_logs_every_trial(trained_week, tmp_path):
    context = other(trained_week, tmp_path)
    first = tune.run(context, "boosted_trees", trials=2, minutes=5)
    more = tune.run(context, "boosted_trees", trials=4, minutes=5)
    assert (first["new_trials"], more["new_trials"], more["trials"]) == (2, 2, 4)
    assert more["auc"] >= first["auc"] >= first["settings_auc"]
    tried = runs(context, kind="trial")
    assert len({tuple(sorted(run.data.params.items())) for run in tried}) == len(tried) == 4  # no trial is repeated
    assert tune.run(context, "boosted_trees", trials=4, minutes=5)["new_trials"] == 0
    recipe = yaml.safe_load(more["yaml"])["skip"]["recipes"]["boosted_trees"]
    assert recipe["rounds"] == 40
    registry.make("boosted_trees", recipe)
    with pytest.raises(BadArgument, match="--trials: must be at least 1"):
        tune.run(context, "boosted_trees", trials=-1)


def test_trial_value_is_the_mean_of_folds_and_validation(trained_week, tmp_path, monkeypatch):
    monkeypatch.setitem(tune.SPACES, "logistic_features", {"c": Choice((0.01,))})
    context = other(trained_week, tmp_path)
    report = tune.run(context, "logistic_features", trials=1, minutes=5)
    trained = train.run(context, "logistic_features")  # the same as the default recipe
    folds = artifacts.read_folds(context, "logistic_features")
    borders = np.asarray(artifacts.read_report(context, "logistic_features")["borders"])
    edges = borders - borders[0]
    parts = [metrics.auc(folds.listened_N[a:b], folds.proba_N[a:b]) for a, b in pairwise(edges)]
    assert report["auc"] == pytest.approx(np.mean([*parts, trained["auc"]["validation"]]))


def test_grid_search_tries_every_point_once(trained_week, tmp_path, monkeypatch):
    monkeypatch.setitem(tune.SPACES, "logistic_features", {"c": Choice((0.001, 0.01, 0.1))})
    report = tune.run(other(trained_week, tmp_path), "logistic_features", trials=10, minutes=5)
    assert report["trials"] == report["new_trials"] == 3


def test_leaky_features_raise_auc(trained_week):
    context, _ = trained_week
    report = leakage.run(context)
    document = json.loads((context.work / "leakage.json").read_text())
    rows = {row["model"]: row for row in document["rows"]}
    assert set(rows) == {"boosted_trees", "logistic_features"}
    trees = rows["boosted_trees"]
    assert trees["leaky, by time"] > trees["honest, by time, high"]
    assert f"{max(row['honest, by time'] for row in rows.values()):.3f}" in report["sentence"]


def test_exit_codes_of_the_commands(command, home, monkeypatch):
    code, _, err = command("skip", "train", "--model", "boosted", "--week", "2016-12-05")
    assert code == 2
    assert "boosted_trees" in err
    code, _, err = command("skip", "train", "--model", "boosted_trees", "--week", "2016-12-06")
    assert code == 2
    for name in ("blend", "evaluate", "leakage"):
        code, _, err = command("skip", name, "--week", "2016-12-05")
        assert code == 3, err
