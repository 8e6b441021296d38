"""Tests of jobs/cli/main.py and its groups: help texts, order of the panels, exit codes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer

from jobs.cli import ingest
from jobs.cli import main as cli

HEAVY_LIBRARIES = ("pyspark", "torch", "mlflow", "great_expectations", "pandas", "pyarrow")


def commands(group, prefix="overture"):
    """Yield (name, command) of all commands and groups below a click group."""
    for name, command in group.commands.items():
        yield f"{prefix} {name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")


OVERTURE = typer.main.get_command(cli.app)
COMMANDS = dict(commands(OVERTURE))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_a_help_sentence(name):
    command = COMMANDS[name]
    assert command.help
    assert re.match(r"[A-Z`].*[.:)]$", command.help.split("\n\n")[0].replace("\n", " ")), command.help
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{name} {parameter.name}"
            assert parameter.help.endswith("."), f"{name} {parameter.name}: {parameter.help}"


def test_the_help_of_the_command_documents_the_exit_codes():
    for code in ("0 success", "1 failure", "2 invalid", "3 a data check", "4 the input"):
        assert code in OVERTURE.help


def test_the_panels_of_the_help_are_in_order():
    panels = list(dict.fromkeys(command.rich_help_panel for command in OVERTURE.commands.values()))
    assert panels == sorted(panels)
    assert [panel[:2] for panel in panels] == ["1.", "2.", "3.", "4.", "5.", "6."]


@pytest.mark.parametrize("source", ingest.SOURCES)
def test_every_source_has_an_adapter_with_a_run_function(source):
    module = __import__(ingest.SOURCES[source], fromlist=["run"])
    assert callable(module.run)


def test_the_command_starts_without_heavy_libraries():
    code = f"import sys, jobs.cli.main; print(*set({HEAVY_LIBRARIES}) & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ingest", "napster"], 2, "unknown source 'napster'"),
        (["ingest", "mpd"], 2, "mpd needs the folder of its files"),
        (["ingest", "listenbrainz", "--data", "nowhere"], 2, "listenbrainz needs the folder of its files"),
        (["segments", "--week", "2026-11-16", "--space", "pca"], 2, "unknown space 'pca'"),
        (["release", "promote"], 2, "name the week"),
        (["ready"], 2, "either --week or --day"),
        (["ready", "--week", "2026-11-16", "--day", "2026-11-15"], 2, "either --week or --day"),
        (["ready", "--week", "2026-11-16", "--files"], 2, "--files needs --day"),
        (["ready", "--day", "2026-11-15", "--files"], 2, "simulate is loaded at once, by `overture ingest simulate`"),
        (["ready", "--day", "2026-11-15", "--backtest"], 2, "--backtest needs --week"),
        (["matrix", "catalog", "--week", "2026-11-17"], 2, "is a Tuesday"),
    ],
)
def test_invalid_arguments_end_with_exit_code_2(home, monkeypatch, capsys, arguments, code, message):
    monkeypatch.setattr(sys, "argv", ["overture", *arguments])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == code
    assert message in capsys.readouterr().err
