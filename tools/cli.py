"""The `viewmill` command: which function serves which word. Nothing heavy is imported before it runs."""

import sys
from typing import Annotated

import typer
from viewmill.tools import (
    compare_command,
    config_command,
    convert,
    curves_command,
    diagnose_command,
    environment_command,
    evaluate,
    export_command,
    import_command,
    launch_command,
    pictures_command,
    plan_command,
    preflight_command,
    preview_command,
    prior_command,
    profile_command,
    recipes_command,
    replay_command,
    report,
    sample_data,
    segment_command,
    survey_command,
    train,
    verify,
)
from viewmill.tools.bench_commands import app as bench
from viewmill.tools.console import new_app, run_app

app = new_app(
    "Images to shards, shards to views, views to an information-theoretic loss, and the loss to weights.",
    example="viewmill train hydes_tiny --data DATASET --out RUN",
    footer="Exit codes: 0 done, 1 failed at run time, 2 wrong usage, settings or path, 3 a check found "
    "faults, 85 stopped by a signal and to be resumed, 130 interrupted. VIEWMILL_DEBUG=1, or --debug "
    "anywhere on the line, shows the traceback of an error.",
)
COMMANDS = {
    "sample-data": sample_data,
    "convert": convert,
    "verify": verify,
    "inspect": survey_command,
    "preview": preview_command,
    "train": train,
    "launch": launch_command,
    "profile": profile_command,
    "evaluate": evaluate,
    "segment": segment_command,
    "pictures": pictures_command,
    "curves": curves_command,
    "prior": prior_command,
    "diagnose": diagnose_command,
    "export": export_command,
    "import-deepspeed": import_command,
    "replay": replay_command,
    "plan": plan_command,
    "report": report,
    "compare": compare_command,
    "preflight": preflight_command,
    "env": environment_command,
}
for name, module in COMMANDS.items():
    app.command(name, epilog=f"Example: {module.EXAMPLE}")(module.command)
app.add_typer(config_command.app, name="config")
app.add_typer(recipes_command.app, name="recipes")
app.add_typer(bench.app, name="bench")


def show_version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        from importlib import metadata

        print(metadata.version("viewmill"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before the command."""


def main() -> None:
    """The `viewmill` script, by way of `entry.py`, and `python -m viewmill.tools.cli`."""
    sys.exit(run_app(app))


if __name__ == "__main__":
    main()
