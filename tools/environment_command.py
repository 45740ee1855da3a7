"""`viewmill env`: versions and hardware, to put beside a number or a fault."""

from typing import Annotated

import typer
from viewmill.tools.console import print_json, print_line

EXAMPLE = "viewmill env --json > environment.json"


def command(
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the versions and the hardware that a run here would record."""
    from viewmill.engine.environment import environment
    from viewmill.engine.world import World, pick_device

    found = environment(World(rank=0, world_size=1, local_rank=0, device=pick_device("auto", 0)))
    if json:
        print_json(found)
        return
    packages = found.pop("packages")
    width = max(map(len, [*found, *packages]))
    for name, value in {**found, **packages}.items():
        print_line(f"{name:<{width}}  {value}")
