"""A prior on disk: prior.safetensors with log P, its standard errors, the centre and what they are of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from viewmill.shards.durable import written_whole

FORMAT, VERSION = "viewmill-prior", 1
_NAMES = ("log_prior", "standard_error", "center")


@dataclass(frozen=True)
class Prior:
    """How the samples of a data set spread over clusters, by a teacher at one temperature."""

    log_prior: Tensor  # (K,) float64, at least log 1/(N K)
    standard_error: Tensor  # (K,) float64, of P_k, as if the samples were drawn from more
    center: Tensor  # (K,) float64: mean logits, before the temperature
    prototypes: Tensor | None  # (K, F) float32, of length 1, where they were not the checkpoint's own
    about: dict[str, Any]  # JSON-able: samples, total, data, temperature, source, ...


def write_prior(path: Path, prior: Prior) -> None:
    """Writes the file whole, or leaves what stood there."""
    tensors = {name: getattr(prior, name).contiguous() for name in _NAMES}
    if prior.prototypes is not None:
        tensors["prototypes"] = prior.prototypes.contiguous()
    metadata = {"format": FORMAT, "version": str(VERSION), "about": json.dumps(prior.about, sort_keys=True)}
    with written_whole(path) as file:
        file.write(save(tensors, metadata))


def read_prior(path: Path) -> Prior:
    """A prior that `write_prior` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no prior.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; viewmill prior writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(VERSION)):
            raise ValueError(f"its format is {metadata.get('format')} {metadata.get('version')}")
        about = json.loads(metadata["about"])
        log_prior, deviation, center = (found[name] for name in _NAMES)
        if not isinstance(about, dict) or not log_prior.shape == deviation.shape == center.shape:
            raise ValueError("its parts do not fit each other")
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a prior that this Viewmill wrote ({error}); make it anew") from error
    return Prior(log_prior, deviation, center, found.get("prototypes"), about)
