"""`viewmill config show | validate | schema`: what a recipe means, without running it."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.console import new_app, print_json, print_line

app = new_app("Look at recipes and settings.", example="viewmill config show hydes_tiny optimizer.lr=1e-3")

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that viewmill recipes lists.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings on top of the recipe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(epilog="Example: viewmill config show hydes_tiny epochs=100")
def show(recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Print every setting of a recipe, defaults included."""
    import yaml
    from viewmill.engine.config import load_config

    tree = load_config(recipe, overrides).model_dump(mode="json")
    if json:
        print_json(tree)
    else:
        print_line(yaml.safe_dump(tree, sort_keys=False).rstrip())


@app.command(epilog="Example: viewmill config validate my_recipe.yaml views.preset=hydes@96")
def validate(recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Check a recipe; a wrong setting is named, with the nearest right one."""
    from viewmill.engine.config import load_config
    from viewmill.pipelines.views import preset

    config = load_config(recipe, overrides)
    if config.views.preset is not None:
        preset(config.views.preset)
    if json:
        print_json({"recipe": str(recipe), "valid": True})
    else:
        print_line(f"{Path(recipe).name}: valid")


@app.command(epilog="Example: viewmill config schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from viewmill.engine.config import RunConfig

    print_json(RunConfig.model_json_schema())
