"""`overture ab-*`: A/B tests and off-policy estimates. `overture paper`: the paper's experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, SpaceOption, parse_space, print_json, settings_context
from jobs.platform.context import Context
from serving.settings import ArmMethod

commands = typer.Typer()
PANEL = "6. Experiments"
ExperimentOption = Annotated[
    str, typer.Option("--experiment", help="Name of a registered experiment. Default: the one of the settings.")
]


@commands.command("ab-plan", rich_help_panel=PANEL)
def ab_plan(config: ConfigOption = None) -> None:
    """Register the A/B test of the settings before its first day: arms, hypothesis, sample size, days."""
    context = settings_context(config)
    from jobs.experiments import plan

    print_json(plan.run(context))


@commands.command("ab-ingest", rich_help_panel=PANEL)
def ab_ingest(
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="Folder with exposures-<day>*.jsonl and outcomes-<day>*.jsonl, also rotated and compressed."
        ),
    ],
    config: ConfigOption = None,
) -> None:
    """Read the service's exposure log and the app's outcomes into the lake. Invalid lines are counted by reason."""
    context = settings_context(config)
    from jobs.experiments import ingest

    print_json(ingest.run(context, folder=data))


@commands.command("ab-test", rich_help_panel=PANEL)
def ab_test(experiment: ExperimentOption = "", config: ConfigOption = None) -> None:
    """Analyse a registered A/B test over its planned days. Exit code 3 if the data do not allow a conclusion.

    Run `ab-plan` before the test and `ab-ingest` after its last day.
    """
    context = settings_context(config)
    from jobs.experiments import analyse

    print_json(analyse.run(context, name=experiment or context.settings.experiment.name))


@commands.command("ab-estimate", rich_help_panel=PANEL)
def ab_estimate(
    policy: Annotated[str, typer.Option("--policy", help=f"Method to estimate: {', '.join(get_args(ArmMethod))}.")],
    arm: Annotated[str, typer.Option("--arm", help="Arm whose log is used. It must explore.")],
    experiment: ExperimentOption = "",
    config: ConfigOption = None,
) -> None:
    """Estimate the value of a method from the log of an exploring arm (IPS, SNIPS).

    Exit code 3 if the log does not allow an estimate.
    """
    context = settings_context(config)
    if policy not in get_args(ArmMethod):
        raise BadArgument(f"--policy: unknown method '{policy}'; choose {', '.join(get_args(ArmMethod))}")
    from jobs.experiments import off_policy

    name = experiment or context.settings.experiment.name
    print_json(off_policy.run(context, name=name, arm_name=arm, policy=policy))


@commands.command("ab-simulate", rich_help_panel=PANEL)
def ab_simulate(
    listeners: Annotated[
        int, typer.Option("--listeners", min=100, help="Approximate number of new listeners.")
    ] = 8_000,
    length: Annotated[int, typer.Option("--length", min=1, max=200, help="Number of tracks in a displayed list.")] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed. Equal seeds give equal listeners.")] = 1,
    config: ConfigOption = None,
) -> None:
    """Simulate the A/B test of the settings: new listeners of the simulated service, served by the champion."""
    context = settings_context(config)
    from jobs.experiments import simulate

    print_json(simulate.run(context, listeners=listeners, length=length, seed=seed))


@commands.command(rich_help_panel=PANEL)
def paper(
    data: Annotated[Path, typer.Option("--data", help="Folder with the eight published files.")],
    space: SpaceOption = "tt_svd",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the page. Default: below OVERTURE_HOME.")] = None,
    methods: Annotated[str, typer.Option("--methods", help="Names, separated by commas. Default: all methods.")] = "",
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe of the network: paper or code.")] = "",
    similarity: Annotated[
        str, typer.Option("--similarity", help="Similarity of fully personalised lists: dot or cosine.")
    ] = "",
    segments: Annotated[int, typer.Option("--segments", help="Number of segments. Default: settings.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of the network. Default: as in the recipe.")] = 0,
    models: Annotated[int, typer.Option("--models", help="Fits of each method that learns. Default: settings.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Reproduce the paper's experiment on its public files: tables, figures, and a page with the published numbers."""
    context = settings_context(config)
    from jobs.paper import run as job

    options = {"recipe": recipe, "similarity": similarity, "segments": segments, "epochs": epochs, "models": models}
    settings = context.settings.model_copy(update={"paper": job.with_options(context.settings.paper, options)})
    if not data.is_dir():
        raise BadArgument(f"--data: no such folder {data}")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    print_json(job.run(Context(settings, context.week), data, parse_space(space), out=out, names=names))
