"""A cache of torch hub with weights of torchvision's resnet18, freshly drawn, under a name of their hash."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from viewmill.engine.evaluation.torchvision_source import weights_of


def drawn_resnet18() -> torch.nn.Module:
    """torchvision's own, with its classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made: torch.nn.Module = torchvision.models.resnet18(weights=None)
    return made.eval()


def cached(home: Path, network: torch.nn.Module, patch: pytest.MonkeyPatch) -> Path:
    """Puts its weights where torch hub looks for those of torchvision's resnet18, whose bytes are not here.

    A published file is called after its hash, so the address is patched, and nothing of the look-up is.
    """
    patch.setenv("TORCH_HOME", str(home))
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "aside")
    name = f"resnet18-{hashlib.sha256((folder / 'aside').read_bytes()).hexdigest()[:8]}.pth"
    weights = weights_of("resnet18")
    patch.setattr(weights, "_value_", replace(weights.value, url=f"https://hub/models/{name}"))
    return (folder / "aside").rename(folder / name)
