"""What tests of the engine share: a world of one rank, pictures, and trainings that are done once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.engine.world import World, start_world, stop_world

from tests.engine.small_training import STAGES, engine_of, save, train
from tests.engine.tiny import tiny_data_set
from tests.engine.two_ranks import two_ranks
from tests.support import run_ranks


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A world of one rank. Trainings set the number of threads; it is put back."""
    threads = torch.get_num_threads()
    world = start_world("cpu")
    yield world
    stop_world(world)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 pictures in four classes: three batches of 8, and two to drop. No test writes to them."""
    return tiny_data_set(tmp_path_factory.mktemp("tiny"), count=26)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of one rank at step 3: 'W=1 stage S' for each stage."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.set_num_threads(1)
    world = start_world("cpu")
    for stage in STAGES:
        engine = engine_of(world, stage)
        train(engine, range(3))
        save(engine, folder / f"W=1 stage {stage}", 3)
    stop_world(world)
    return folder


@pytest.fixture(scope="session")
def ranks(checkpoints: Path) -> list[dict[str, Any]]:
    """What each of two ranks saw; their checkpoints lie beside those of one rank."""
    return run_ranks(2, two_ranks, str(checkpoints))
