"""`viewmill preflight`, and `python -m viewmill.tools.preflight_command` for torchrun, srun and mpirun."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from viewmill.tools.console import FAULTS, new_app, print_json, refuse_url, run_app

if TYPE_CHECKING:
    from viewmill.tools.preflight.options import Options

EXAMPLE = "viewmill preflight --data DATASET --out RUN --hosts HOSTFILE"


def command(
    data: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Looked for, compared and read on every rank.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run's folder: room, inodes, seen by all hosts.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Whose threads and device the machines are held against."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="On top of the recipe; several times."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of a rank, in place of a recipe's.", show_default="the recipe's"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="auto, cpu or cuda, in place of a recipe's; on the CPU no GPU is looked at.",
            show_default="the recipe's, or auto",
        ),
    ] = None,
    hosts: Annotated[
        Path | None,
        typer.Option(metavar="HOSTFILE", help="Start a rank for each slot of its `NAME slots=N`, by ssh."),
    ] = None,
    ssh: Annotated[str, typer.Option(help="With --hosts: the ssh command, such as 'ssh -F FILE'.")] = "ssh",
    python: Annotated[
        str | None,
        typer.Option(help="With --hosts: the interpreter on the hosts.", show_default="this one's path"),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1024, max=65535, help="With --hosts: where rank 0 listens, on the first one.")
    ] = 29500,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="With --hosts: a variable for every rank, as of launch."),
    ] = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds that a rank is waited for.")] = 60.0,
    read_mib: Annotated[int, typer.Option(min=1, help="Of the shards, read by each rank at most.")] = 256,
    network: Annotated[bool, typer.Option(help="Measure clock, all-reduce and links.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print verdicts and facts as JSON.")] = False,
) -> None:
    """Look in a minute whether the machines of a job are fit for it, before hours are spent.

    Each rank finds facts out, rank 0 judges and prints: a line a fault with host and remedy. Exit code 3
    where a check fails. Start it as the job will be: under torchrun, srun or mpirun as python -m
    viewmill.tools.preflight_command, with --hosts, or alone.
    """
    if out is not None:
        refuse_url(out, "a run is written into a folder")
    given = {"threads": threads, "device": device}
    options: dict[str, Any] = {"data": data, "out": out, **wanted_by(recipe, settings or [])}
    options |= {name: value for name, value in given.items() if value is not None}
    options |= {"read_bytes": read_mib << 20, "patience_s": patience, "network": network}
    from viewmill.tools.preflight.options import Options

    chosen = Options.model_validate(options)
    if hosts is not None:
        there = python or sys.executable
        report = on_hosts(hosts, chosen, ssh=shlex.split(ssh), python=there, port=port, given=env or [])
    else:
        found = here(chosen)
        if found is None:  # rank 0 tells
            return
        report = found
    if json:
        print_json(report)
    else:
        from viewmill.tools.preflight.table import show

        show(report)
    if report["status"] == "fail":
        raise typer.Exit(FAULTS)


def wanted_by(recipe: str | None, settings: list[str]) -> dict[str, Any]:
    """Of a rank: its device, and its threads: the executor's, and torch's by the recipe or the launcher.

    Raises:
        ValueError: settings without a recipe, or those that are none.
    """
    from viewmill.engine.config import ViewsConfig, load_config
    from viewmill.tools.preflight.options import threads_of_rank

    if recipe is None and settings:
        raise ValueError("--set changes a recipe; give --recipe RECIPE as well")
    of_torch = int(os.environ.get("OMP_NUM_THREADS") or 1)
    if recipe is None:
        return {"threads": ViewsConfig().num_threads + of_torch}
    config = load_config(recipe, settings)
    return {"threads": threads_of_rank(config, of_torch), "device": config.device}


def here(options: "Options") -> dict[str, Any] | None:
    """Takes part as the rank that the launcher's variables say; the report on rank 0."""
    from viewmill.tools.preflight.meeting import open_meeting
    from viewmill.tools.preflight.run import preflight

    report = preflight(options, open_meeting(options.patience_s))
    return None if report is None else report.tree()


def on_hosts(
    path: Path, options: "Options", *, ssh: list[str], python: str, port: int, given: list[str]
) -> dict[str, Any]:
    """Starts the ranks on the hosts that ssh reaches; the others are faults of the check `ssh`.

    Args:
        given: --env; with it ranks have the variables that `viewmill launch --on ssh` gives them.
    """
    from dataclasses import asdict

    from viewmill.tools.launch.asked import environment_of_ranks, forwarded_to, refuse_devices
    from viewmill.tools.launch.hosts import read_hosts
    from viewmill.tools.launch.targets import target_named
    from viewmill.tools.preflight.hosts import NAME, SSH, reach, run_all, starts
    from viewmill.tools.preflight.verdict import FAIL, Verdict, passed, worst

    wanted = read_hosts(path)
    env = environment_of_ranks(given, os.environ, forwarded_to(target_named("ssh")))
    refuse_devices(env, len(wanted))
    ssh = ssh + list(SSH[1:]) if Path(ssh[0]).name == "ssh" else ssh
    reached = reach(wanted, ssh)
    there = [host for host, verdict in zip(wanted, reached, strict=True) if verdict.status != FAIL]
    verdicts = [verdict for verdict in reached if verdict.status == FAIL]
    verdicts = verdicts or [passed(NAME, f"{len(wanted)} hosts reached")]
    report: dict[str, Any] = {"world_size": 0, "hosts": {}, "verdicts": [], "facts": {}, "seconds": 0.0}
    if there:
        ranks = starts(there, words_of(options), ssh=ssh, python=python, port=port, env=env)
        report = run_all(ranks, 4 * options.patience_s + 2 * options.collective_s)
    verdicts += [Verdict(**row) for row in report["verdicts"]]
    return {**report, "status": worst(verdicts), "verdicts": [asdict(one) for one in verdicts]}


def words_of(options: "Options") -> list[str]:
    """The command line of a rank that was started by ssh."""
    words = ["--json", "--patience", str(options.patience_s), "--read-mib", str(options.read_bytes >> 20)]
    words += ["--threads", str(options.threads), "--device", options.device]
    words += ["--data", absolute(options.data)] if options.data is not None else []
    words += ["--out", str(options.out.absolute())] if options.out is not None else []
    return words if options.network else [*words, "--no-network"]


def absolute(data: str) -> str:
    """A path as the other hosts must find it; a URL as it is."""
    from viewmill.shards.storage.sources import named_source

    named = named_source(data)
    return str(named.absolute()) if isinstance(named, Path) else named


app = new_app("Look whether the machines of a job are fit for it.", example=EXAMPLE)
app.command(epilog=f"Example: {EXAMPLE}")(command)


if __name__ == "__main__":
    sys.exit(run_app(app))
