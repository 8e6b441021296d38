"""Settings: which methods are judged, and that names here and in the registry agree."""

from __future__ import annotations

import sys

import pytest

from contracts.errors import BadArgument
from jobs.cli import main as cli
from jobs.cold_start.methods import in_house_config, judged
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.cold_start import METHODS, PEERS, DropoutNetSettings, EvaluationSettings, MeluSettings
from jobs.settings.settings import Settings, load
from models.cold_start.methods.dropoutnet import DropoutNetRecipe
from models.cold_start.methods.melu import MeluRecipe
from models.cold_start.methods.registry import METHOD_NAMES, InHouseConfig


def test_every_method_can_be_chosen():
    assert METHODS == METHOD_NAMES
    assert EvaluationSettings(methods=METHOD_NAMES).methods == METHOD_NAMES


def test_popularity_is_always_judged_and_each_method_once():
    assert EvaluationSettings(methods=("semi_pers", "melu_full", "semi_pers")).methods == (
        "popularity",
        "melu_full",
        "semi_pers",
    )
    assert EvaluationSettings(methods=()).methods == ("popularity",)
    today = ("popularity", "registration_day_streams", "full_pers", "semi_pers")
    assert EvaluationSettings().methods == EvaluationSettings(methods=today).methods == today


def test_a_backtest_judges_all_but_the_peers(context):
    assert judged(context, "tt_svd") == context.settings.evaluation.methods
    backtest = Context(context.settings, Week.parse("2026-11-16", backtest=True), context.home)
    assert set(METHODS) - set(judged(backtest, "tt_svd")) == set(PEERS)


def test_a_fold_in_is_judged_where_the_factors_are(context):
    chosen = context.settings.evaluation.model_copy(update={"methods": METHODS})
    everything = Context(context.settings.model_copy(update={"evaluation": chosen}), context.week, context.home)
    assert judged(everything, "ut_als") == METHODS
    assert set(METHODS) - set(judged(everything, "tt_svd")) == {"ials_fold_in"}


def test_sections_are_the_recipes():
    assert DropoutNetRecipe(**DropoutNetSettings().model_dump()) == DropoutNetRecipe()
    assert MeluRecipe(**MeluSettings().model_dump()) == MeluRecipe()
    assert in_house_config(Settings(name="x", week="2026-11-16")) == InHouseConfig()


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("evaluation: {methods: [popularity, dropoutnet]}", ("evaluation.methods.1", "'dropoutnet_full'")),
        ("evaluation: {methods: semi_pers}", ("evaluation.methods", "'semi_pers'")),
        ("melu: {support: 3}", ("melu.support", "3")),
        ("dropoutnet: {batch_users: 1}", ("dropoutnet.batch_users", "1")),
        ("dropoutnet: {width: 9}", ("dropoutnet.width", "9")),
    ],
)
def test_a_wrong_setting_ends_with_two_and_names_the_field(section, named, home, tmp_path, monkeypatch, capfd):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\n{section}\n')
    monkeypatch.setattr(
        sys, "argv", ["overture", "evaluate", "--space", "tt_svd", "--week", "2026-11-16", "--config", str(file)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capfd.readouterr().err
    assert stop.value.code == 2, said
    for word in named:
        assert word in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "content", [b"- a\n- b\n", b"only words\n", b"", b"1: 2\n", b"\xff\xfe\x00", b"week: [1\n"], ids=repr
)
def test_a_file_that_holds_no_settings_is_refused_by_name(tmp_path, content):
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(BadArgument, match=r"settings: .*own\.yaml"):
        load(tmp_path / "own.yaml")


def test_a_folder_is_no_settings_file(tmp_path):
    with pytest.raises(BadArgument, match="cannot be read"):
        load(tmp_path)
