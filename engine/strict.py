"""What every group of settings is: strict and frozen; and how one of several groups is chosen."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator


class ConfigError(ValueError):
    """A setting, a recipe or an override is wrong; the message says which one and what to do."""


class StrictModel(BaseModel):
    """No unknown keys, no silent conversions, no change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def chosen_by(key: str, known: tuple[str, ...], default: str | None = None) -> Discriminator:
    """Tells groups of settings apart by the word under `key`; a mapping without it means `default`.

    The members of the union are tagged with the words in `known`.
    """

    def tag(value: Any) -> str | None:
        found = value.get(key, default) if isinstance(value, dict) else getattr(value, key, None)
        return found if isinstance(found, str) else None

    return Discriminator(
        tag,
        custom_error_type="unknown_choice",
        custom_error_message=f"{key} must be one of {', '.join(known)}",
    )
