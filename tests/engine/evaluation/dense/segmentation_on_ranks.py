"""A segmentation on two ranks, in a module without what only trainings import: every rank imports it anew."""

from pathlib import Path
from typing import Any

import torch
from viewmill.engine.evaluation.dense import pixel_probe
from viewmill.engine.evaluation.dense.segmentation import segment
from viewmill.engine.world import World

from tests.engine.evaluation.dense.scenes import opened

EPOCHS = 3  # of the tests: what is compared does not depend on how many there are


def segmented(
    rank: int, source: str, folder: str, out: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The entry as one of two ranks has it, and on rank 0 the probes that were trained."""
    pixel_probe.EPOCHS = EPOCHS
    world = World(rank, 2, rank, torch.device("cpu"))
    found = segment(source, opened(Path(folder)), world=world, out=out, num_threads=1)
    return found.entries[0], probes_in(Path(out)) if rank == 0 else {}


def probes_in(out: Path) -> dict[str, torch.Tensor]:
    """The trained probes that lie in the cache, by file."""
    from safetensors.torch import load_file

    cache = out / "evaluation" / "segmentation" / "cache"
    return {path.name: load_file(path)["rows"] for path in sorted(cache.glob("*.safetensors"))}
