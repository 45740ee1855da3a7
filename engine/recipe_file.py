"""Recipes on disk: which file a name means, and its YAML as a plain tree."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from viewmill.engine.strict import ConfigError

MAX_RECIPE_BYTES = 1 << 20


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with Viewmill, by name."""
    folder = Path(str(resources.files("viewmill.engine.recipes")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(recipe: Path | str) -> Path | None:
    """The file behind a path or the name of a shipped recipe; None: there is none."""
    path = Path(recipe)
    if path.is_file():
        return path
    return shipped_recipes().get(path.stem) if path.name == str(recipe) else None


class _Yaml(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"key {min(twice)!r} is given twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where an exponent needs a point and a sign: 1e-3 would be text.
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(text: str, where: str) -> Any:
    """The plain tree of a YAML text. Raises ConfigError, opened by `where`."""
    try:
        return yaml.load(text, Loader=_Yaml)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: " + " ".join(str(error).split())) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The tree of a YAML file. Raises ConfigError: it is too large, no UTF-8 text, no YAML or no mapping."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size} bytes; a recipe has at most {MAX_RECIPE_BYTES}")
    try:
        tree = parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; a recipe is a YAML file") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no settings; expected YAML lines such as 'epochs: 10'")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one `a.b=value` in the tree, in place. Raises ConfigError where that cannot be."""
    dotted, equals, text = override.partition("=")
    *parents, leaf = dotted.strip().split(".")
    if not equals or not leaf:
        raise ConfigError(f"override {override!r}: expected key=value, such as optimizer.lr=1e-3")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a group of settings")
    tree[leaf] = parse(text, f"override {override!r}")
