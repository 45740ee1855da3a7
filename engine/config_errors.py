"""What is wrong with a tree of settings, told in words of the recipe: `optimizer.lrr` and its nearest key."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, Tag, ValidationError

# The words that choose one of several groups of settings.
TAGS = {
    "hydes",
    "imsvd",
    "distill",
    "supervised",
    "adamw",
    "sgd",
    "lars",
    "ema",
    "copy",
    "batch",
    "streaming",
    "dataset",
    "number",
    "ramp",
    "steps",
}


def told(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Each complaint of pydantic about a tree for `model`, in a line."""
    return [_one_line(model, one) for one in error.errors()]


def _one_line(model: type[BaseModel], error: Any) -> str:
    """'optimizer.lrr is no setting; the nearest is optimizer.lr' and the like."""
    # Which member of a union was meant stands in the place of an error, and is no key.
    tags = [part for part in error["loc"] if part in TAGS]
    dotted = ".".join(str(part) for part in error["loc"] if part not in TAGS)
    if error["type"] == "extra_forbidden":
        # One of another method, as is left over where an override chooses another name.
        owner = f" of {tags[-1]}" if tags and dotted in keys_of(model, []) else ""
        return f"{dotted} is no setting{owner}; the nearest is {nearest_key(model, dotted, tags)}"
    if error["type"] == "missing":
        return f"{dotted} is missing; add it to the recipe or pass {dotted}=VALUE"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    found = "" if isinstance(error["input"], dict) or "got " in message else f", got {error['input']!r}"
    return f"{dotted}: {message}{found}" if dotted else message


def nearest_key(model: type[BaseModel], dotted: str, tags: list[str]) -> str:
    """The existing setting whose dotted name, or last part, is most like this one.

    Args:
        tags: the words that were chosen where there are several groups, such as the method's name.
    """
    known = keys_of(model, tags)
    leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
    by_name = difflib.get_close_matches(dotted, known, n=1, cutoff=0.75)
    by_leaf = difflib.get_close_matches(dotted.rpartition(".")[2], leaves, n=1, cutoff=0.6)
    if by_name or not by_leaf:
        return (by_name or difflib.get_close_matches(dotted, known, n=1, cutoff=0.0))[0]
    return leaves[by_leaf[0]]


def keys_of(model: type[BaseModel], tags: list[str], prefix: str = "") -> list[str]:
    """Dotted names of all settings below a model, groups included."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if prefix + name not in keys:
            keys.append(prefix + name)
        members = members_of(field.annotation)
        chosen = {tag: member for tag, member in members.items() if tag in tags} or members
        for member in chosen.values():
            keys += [key for key in keys_of(member, tags, f"{prefix}{name}.") if key not in keys]
    return keys


def members_of(annotation: Any) -> dict[str, type[BaseModel]]:
    """The groups of settings that may stand under a key, by their tags."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation.__name__: annotation}
    found: dict[str, type[BaseModel]] = {}
    for member in get_args(annotation):
        tag = next((one.tag for one in get_args(member)[1:] if isinstance(one, Tag)), None)
        inner = members_of(get_args(member)[0]) if tag else members_of(member)
        found |= {tag or name: model for name, model in inner.items()}
    return found
