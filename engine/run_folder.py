"""The folder of a run: when it may be begun, what a resumed run may change, and its fixed files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewmill.engine.config import ConfigError, RunConfig, config_from, save_config

if TYPE_CHECKING:  # torch, for which `viewmill launch` does not wait
    from viewmill.engine.world import World

# What a resumed run may set anew: where and how fast it computes, how long, and what it writes. Everything
# else would make it another run.
FREE_ON_RESUME = (
    "device",
    "torch_threads",
    "accumulation",  # of networks without BatchNorm: `check_accumulation`
    "nonfinite_limit",
    "model.checkpoint_activations",  # the same bits
    "model.compile",  # within the order of float32 sums
    "views.executor",  # the same crops; pixels within the published tolerance
    "views.num_threads",
    "views.prefetch",
    "views.max_ahead_bytes",
    "views.max_substitutes",
    "zero",
    "checkpoint",
    "log",
    "faults",
    "evaluation",
    "profile",
)
MAY_GROW_ON_RESUME = ("epochs", "max_steps")  # more epochs also stretch the cosine from here on


def refuse_used_folder(run_dir: Path) -> None:
    """Raises ConfigError where a new run would write over something."""
    is_free = not run_dir.exists() or (run_dir.is_dir() and not _left(run_dir))
    if not is_free:
        raise ConfigError(f"{run_dir} is not empty; pass --resume to continue it, or another --out")


def _left(run_dir: Path) -> list[Path]:
    """What stands in a folder beside a launch's files and the signs of a start that failed too early."""
    return [path for path in run_dir.iterdir() if path.name not in ("heartbeats", "faults", "launch")]


def was_never_saved(run_dir: Path) -> bool:
    """Whether the folder is free, or of a run that has ended before its first checkpoint."""
    if not run_dir.exists() or (run_dir.is_dir() and not _left(run_dir)):
        return True
    # A damaged checkpoint, or the hint at one that is gone, is a loss: no reason to begin anew in silence.
    saved = [path for path in (run_dir / "checkpoints").glob("*") if not path.name.startswith(".")]
    return (run_dir / "config.yaml").is_file() and not saved


def refuse_missing_folder(run_dir: Path) -> None:
    """Raises ConfigError where there is nothing to resume."""
    if not (run_dir / "checkpoints").is_dir():
        raise ConfigError(
            f"{run_dir} holds no run to resume; check --out, or leave out --resume to begin one"
        )


def refuse_other_run(saved: dict[str, Any], config: RunConfig, where: str) -> None:
    """Raises ConfigError naming each setting of `config` that a resumed run may not change, with both values.

    Args:
        saved: the settings in the checkpoint, as RunConfig.model_dump gives them.
        where: of the saved settings, for the message.
    """
    old = config_from(saved, where)
    before, now = _flat(old.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    # Another method has other keys: None stands where one of the two has none.
    pairs = {key: (before.get(key), now.get(key)) for key in {**now, **before}}
    changed = {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and not _may_change(key, *pair)}
    if changed:
        listed = "; ".join(f"{key} was {was!r}, now {is_now!r}" for key, (was, is_now) in changed.items())
        raise ConfigError(
            f"{where}: --resume continues the same run, but {listed}; give the saved value, or begin "
            "anew with another --out"
        )


def write_run_files(run_dir: Path, config: RunConfig, world: "World") -> None:
    """config.yaml and environment.json; a note to requeue is answered by this start and goes."""
    from viewmill.engine.environment import environment

    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    save_config(config, run_dir / "config.yaml")
    described = json.dumps(environment(world), indent=2)
    (run_dir / "environment.json").write_text(described + "\n", encoding="utf-8")
    (run_dir / "requeue.json").unlink(missing_ok=True)


def _may_change(key: str, before: Any, now: Any) -> bool:
    if key in MAY_GROW_ON_RESUME:
        return now is None or (before is not None and now > before)
    return any(key == free or key.startswith(f"{free}.") for free in FREE_ON_RESUME)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"lr": 1}} as {"optimizer.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
