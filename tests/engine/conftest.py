"""What tests of the engine share: trainings on one and two ranks, done once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.engine.world import start_world, stop_world

from tests.engine.small_training import STAGES, engine_of, save, train
from tests.engine.two_ranks import two_ranks
from tests.support import run_ranks


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
