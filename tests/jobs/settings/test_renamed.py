"""Old names of settings: `load` refuses them and reports the new name."""

from __future__ import annotations

import sys
from dataclasses import fields

import pytest
from pydantic import BaseModel

from contracts.errors import BadArgument
from jobs.cli import main as cli
from jobs.settings.experiments import ExperimentSettings
from jobs.settings.renamed import RENAMED
from jobs.settings.settings import Settings, load
from models.skip.estimators.registry import MODELS

MINIMAL = 'name: mine\nweek: "2026-11-16"\n'
RECIPES = "skip.recipes."


def is_setting(dotted: str) -> bool:
    """Is there a setting, or a field of a skip model's recipe, with this dotted name?"""
    if dotted.startswith(RECIPES):
        model, _, name = dotted.removeprefix(RECIPES).partition(".")
        return name in {field.name for field in fields(MODELS[model].Recipe)}
    section: type[BaseModel] = Settings
    *outer, name = dotted.split(".")
    for part in outer:
        section = section.model_fields[part].annotation
    return name in section.model_fields


def as_yaml(dotted: str) -> str:
    """A YAML line that sets this name to 1."""
    *outer, name = dotted.split(".")
    return (
        "".join(f"{{{part}: " for part in outer).removeprefix("{")
        + f"{'{' if outer else ''}{name}: 1"
        + "}" * len(outer)
    )


@pytest.mark.parametrize("old", RENAMED)
def test_every_target_is_a_setting_and_no_source_is(old):
    assert is_setting(RENAMED[old])
    assert not is_setting(old)


@pytest.mark.parametrize("old", RENAMED)
def test_old_name_in_a_file_raises_with_its_new_name(old, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{MINIMAL}{as_yaml(old)}\n")
    with pytest.raises(BadArgument) as refused:
        load(file)
    assert str(file) in str(refused.value)
    assert f"{old} was renamed to {RENAMED[old]}" in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "old"),
    [
        ("OVERTURE__GATE__PARITY", "0.1", "gate.parity"),
        ("OVERTURE__GATE", '{"parity": 0.1}', "gate.parity"),
        ("overture__skip__gate__parity", "0.1", "skip.gate.parity"),
        ("OVERTURE__BLEND_SHARE", "0.5", "blend_share"),
    ],
)
def test_old_name_in_the_environment_raises_with_its_new_name(variable, value, old, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(MINIMAL)
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadArgument) as refused:
        load(file)
    assert variable in str(refused.value)
    assert f"{old} was renamed to {RENAMED[old]}" in str(refused.value)


def test_command_exits_with_code_2(home, tmp_path, monkeypatch, capfd):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{MINIMAL}blend_share: 0.5\n")
    monkeypatch.setattr(
        sys, "argv", ["overture", "evaluate", "--space", "tt_svd", "--week", "2026-11-16", "--config", str(file)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    message = capfd.readouterr().err
    assert stop.value.code == 2, message
    assert "blend_share was renamed to autoencoder_weight" in message


def test_plan_registered_with_old_names_is_read():
    plan = ExperimentSettings(attribution_hours=48, mlflow_experiment="mine").model_dump(mode="json")
    new_names = {new: old for old, new in RENAMED.items() if new.startswith("experiment.")}
    old_plan = {new_names.get(f"experiment.{name}", name).removeprefix("experiment."): plan[name] for name in plan}
    assert old_plan["within_hours"] == 48
    assert ExperimentSettings.from_plan(old_plan) == ExperimentSettings.from_plan(plan)
