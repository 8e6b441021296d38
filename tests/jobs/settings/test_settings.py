"""The settings: descriptions of all fields, names of methods, and the errors of a wrong file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from contracts.errors import BadArgument
from jobs.cli import main as cli
from jobs.cold_start.methods import method_recipes, methods_to_evaluate
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.cold_start import (
    METHODS,
    PEERS,
    DropoutNetSettings,
    EvaluationSettings,
    FirstDayNetworkSettings,
    GateSettings,
    MeluSettings,
    NetworkSettings,
)
from jobs.settings.platform import MlflowNames, MlflowSettings
from jobs.settings.settings import Settings, load
from models.cold_start.methods.dropoutnet import DropoutNetRecipe
from models.cold_start.methods.first_day_network import FirstDayNetworkRecipe
from models.cold_start.methods.melu import MeluRecipe
from models.cold_start.methods.registry import METHOD_NAMES, InHouseConfig
from models.cold_start.network import NetworkRecipe


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model of the settings with its dotted path, also models in tuples and optional ones."""
    yield path, model
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part, f"{path}{name}.")


def test_every_setting_has_a_description():
    undescribed = [
        f"{path}{name}"
        for path, section in sections(Settings)
        for name, field in section.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
        and not field.description
    ]
    assert undescribed == []


def test_every_section_has_a_docstring_of_its_own():
    assert [path for path, section in sections(Settings) if not section.__dict__.get("__doc__")] == []


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_configs_load(file):
    settings = load(file)
    assert settings.name == file.stem
    Week.parse(settings.week)


def test_environment_takes_precedence_over_the_file(monkeypatch):
    monkeypatch.setenv("OVERTURE__SPARK__MASTER", "spark://somewhere:7077")
    spark = load(Path(__file__).parents[3] / "configs" / "tiny.yaml").spark
    assert spark.master == "spark://somewhere:7077"
    assert spark.partitions == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("segments: {k: 0}", r"segments\.k: .*greater than 0.*got 0"),
        ("segmets: {k: 5}", "segmets"),
        ("als: [1", "is not YAML"),
    ],
)
def test_error_of_a_wrong_setting_names_file_and_field(tmp_path, line, message):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\n{line}\n')
    with pytest.raises(BadArgument, match=message) as refused:
        load(file)
    assert "mine.yaml" in str(refused.value)


def test_error_names_the_missing_file(tmp_path):
    with pytest.raises(BadArgument, match=r"no such file .*none\.yaml"):
        load(tmp_path / "none.yaml")


def test_mlflow_names_of_an_engine_do_not_depend_on_the_file():
    for file in ("skip", "demo"):
        mlflow = load(Path(__file__).parents[3] / "configs" / f"{file}.yaml").mlflow
        assert mlflow.names("skip", daily=False) == MlflowNames("skip_weekly", "skip")
        assert mlflow.names("skip", daily=True) == MlflowNames("skip_daily", "skip")
        assert mlflow.names("cold_start", daily=False) == MlflowNames("cold_start_weekly", "cold_start")
        assert mlflow.names("cold_start", daily=True) == MlflowNames("cold_users_daily", "cold_start")


def test_daily_and_weekly_runs_need_different_experiments():
    with pytest.raises(ValueError, match="daily_experiment: must differ from weekly_experiment"):
        MlflowSettings.model_validate({"skip": {"daily_experiment": "skip_weekly"}})


def test_every_method_can_be_chosen():
    assert METHODS == METHOD_NAMES
    assert EvaluationSettings(methods=METHOD_NAMES).methods == METHOD_NAMES


def test_popularity_is_always_evaluated_and_each_method_once():
    assert EvaluationSettings(methods=("semi_pers", "melu_full", "semi_pers")).methods == (
        "popularity",
        "melu_full",
        "semi_pers",
    )
    assert EvaluationSettings(methods=()).methods == ("popularity",)
    default = ("popularity", "registration_day_streams", "full_pers", "semi_pers")
    assert EvaluationSettings().methods == EvaluationSettings(methods=default).methods == default


def test_backtest_evaluates_all_methods_except_the_peers(context):
    assert methods_to_evaluate(context, "tt_svd") == context.settings.evaluation.methods
    backtest = Context(context.settings, Week.parse("2026-11-16", backtest=True), context.home)
    assert set(METHODS) - set(methods_to_evaluate(backtest, "tt_svd")) == set(PEERS)


def test_fold_in_is_evaluated_in_the_space_of_the_factors(context):
    chosen = context.settings.evaluation.model_copy(update={"methods": METHODS})
    all_methods = Context(context.settings.model_copy(update={"evaluation": chosen}), context.week, context.home)
    assert methods_to_evaluate(all_methods, "ut_als") == METHODS
    assert set(METHODS) - set(methods_to_evaluate(all_methods, "tt_svd")) == {"ials_fold_in"}


@pytest.mark.parametrize(
    ("section", "recipe", "set_elsewhere"),
    [
        (NetworkSettings, NetworkRecipe, set()),
        (DropoutNetSettings, DropoutNetRecipe, set()),
        (MeluSettings, MeluRecipe, set()),
        (FirstDayNetworkSettings, FirstDayNetworkRecipe, {"size_exponent", "from_vectors", "kinds"}),
    ],
)
def test_recipe_has_no_defaults_for_fields_of_a_section(section, recipe, set_elsewhere):
    settable = {field.name: field for field in fields(recipe)}
    assert set(section.model_fields) - {"holdout_share"} == settable.keys() - set_elsewhere
    for name in settable.keys() - set_elsewhere:
        assert settable[name].default is MISSING, name
        assert settable[name].default_factory is MISSING, name


def test_recipes_of_all_methods_come_from_the_settings():
    settings = Settings(name="x", week="2026-11-16")
    recipes = method_recipes(settings)
    assert recipes["dropoutnet"] == DropoutNetRecipe(**settings.dropoutnet.model_dump())
    assert recipes["in_house"].mixture.epochs == settings.mixture.epochs == 16
    assert recipes["in_house"].mixture_weight == settings.mixture.mixture_weight == 0.25
    assert recipes["in_house"].autoencoder_weight == settings.autoencoder_weight == 0.5
    assert all(field.default is MISSING for field in fields(InHouseConfig))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("evaluation: {methods: [popularity, dropoutnet]}", ("evaluation.methods.1", "'dropoutnet_full'")),
        ("evaluation: {methods: semi_pers}", ("evaluation.methods", "'semi_pers'")),
        ("melu: {support: 3}", ("melu.support", "3")),
        ("dropoutnet: {batch_users: 1}", ("dropoutnet.batch_users", "1")),
        ("dropoutnet: {width: 9}", ("dropoutnet.width", "9")),
    ],
)
def test_wrong_setting_exits_with_code_2_and_names_the_field(section, words, home, tmp_path, monkeypatch, capfd):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\n{section}\n')
    monkeypatch.setattr(
        sys, "argv", ["overture", "evaluate", "--space", "tt_svd", "--week", "2026-11-16", "--config", str(file)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    message = capfd.readouterr().err
    assert stop.value.code == 2, message
    for word in words:
        assert word in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "content", [b"- a\n- b\n", b"only words\n", b"", b"1: 2\n", b"\xff\xfe\x00", b"week: [1\n"], ids=repr
)
def test_file_without_settings_raises_with_its_name(tmp_path, content):
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(BadArgument, match=r"settings: .*own\.yaml"):
        load(tmp_path / "own.yaml")


def test_folder_as_settings_file_raises(tmp_path):
    with pytest.raises(BadArgument, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["run[1]", "{a}", "a*", "what?", "a\\b", "a,b", "two\nlines"])
def test_a_home_that_spark_would_take_as_a_pattern_is_refused_at_once(tmp_path, monkeypatch, command, name):
    monkeypatch.setenv("OVERTURE_HOME", str(tmp_path / name))
    code, _, err = command("ingest", "simulate", "--config", "configs/tiny.yaml")
    assert code == 2
    assert "OVERTURE_HOME: Spark does not take" in err
    assert not (tmp_path / name).exists()


def test_a_lake_that_spark_would_take_as_a_pattern_is_refused(monkeypatch):
    for lake in ("/data/lake[1]", "s3://bucket/{a}"):
        monkeypatch.setenv("OVERTURE__LAKE", lake)
        with pytest.raises(BadArgument, match=r"lake: .*Spark does not take"):
            load(Path("configs/tiny.yaml"))
    monkeypatch.setenv("OVERTURE__LAKE", "/data/my lake \u00e9#%20")
    assert load(Path("configs/tiny.yaml")).lake.endswith("%20")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("gate: {k: 201}", r"gate.k: lists of 201 tracks are longer than segments.ranking_length \(200\)"),
        (
            "evaluation: {k: [20, 60]}\nsegments: {ranking_length: 50}",
            "evaluation.k: lists of 60 tracks are longer than",
        ),
        ("matrix: {n_catalog: 10}", r"evaluation.k: lists of 50 tracks are longer than matrix.n_catalog \(10\)"),
    ],
)
def test_lists_longer_than_rankings_or_catalogue_are_refused(tmp_path, lines, message):
    file = tmp_path / "settings.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\n{lines}\n')
    with pytest.raises(BadArgument, match=message):
        load(file)


def test_the_bound_of_latency_depends_on_the_method_unless_it_is_set():
    assert GateSettings().max_latency_ms == 10
    assert GateSettings(method="ranked_candidates").max_latency_ms == 15
    assert GateSettings(method="ranked_candidates", latency_ms=4).max_latency_ms == 4
