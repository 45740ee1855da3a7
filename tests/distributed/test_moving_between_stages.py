"""A run that moves between ZeRO stages and numbers of ranks: the samples of a run that stays, and its losses.

Stage 1 on two ranks, stage 3 on one, stage 0 on four. A ViT with LayerNorm alone is held to DESIGN.md's
1e-4; see test_training_is_the_same_everywhere.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.engine import train as train_module
from viewmill.engine.config import RunConfig
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.pipelines.loader import Batch, Loader

from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
METHODS: dict[str, dict[str, Any]] = {
    "hydes": {"beta": 0.5, "projector": {"layers": 1, "dim": 16}},
    "distill": {"name": "distill", "num_clusters": 8, "projector": {"layers": 1, "dim": 8}},
}
# ZeRO stage, ranks, and the step at which it ends.
SESSIONS = ((1, 2, 4), (3, 1, 8), (0, 4, 12))


def config(method: str, stage: int, stop: int) -> RunConfig:
    return tiny_config(
        model={"backbone": "test_vit"},
        method=METHODS[method],
        views={"preset": "imsvd@32", "executor": "reference", "num_threads": 1},
        optimizer={"lr": 1e-4},
        schedule={"constant": True},
        zero={"stage": stage},
        epochs=4,
        max_steps=stop,
    )


def session(rank: int, ranks: int, stage: int, stop: int, resume: bool, data: str, folder: str) -> None:
    """Each method on this rank up to step `stop`; the ids of each batch go into a file of the rank."""
    world = World(rank, ranks, rank, torch.device("cpu"))
    for method in METHODS:
        run_dir, seen = Path(folder) / method, Path(folder) / f"{method}-{stop:02d}-{rank}.jsonl"

        class Recording(Loader):
            def __iter__(self) -> Iterator[Batch]:
                for batch in super().__iter__():
                    with seen.open("a") as file:  # noqa: B023 - it is used within this turn of the loop
                        line = {"epoch": batch.epoch, "step": batch.step, "ids": batch.ids.tolist()}
                        file.write(json.dumps(line) + "\n")
                    yield batch

        train_module.Loader = Recording  # type: ignore[misc]
        train(config(method, stage, stop), data, run_dir, resume=resume, world=world)


def samples(folder: Path, method: str) -> list[tuple[int, int, list[int]]]:
    """(epoch, step, ids of the global batch in the order of the ranks), as they were trained on."""
    found: dict[tuple[int, int], list[int]] = {}
    for file in sorted(folder.glob(f"{method}-*.jsonl")):
        for line in read_lines(file):
            found.setdefault((line["epoch"], line["step"]), []).extend(line["ids"])
    return [(*place, ids) for place, ids in sorted(found.items())]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("moving")
    data, stays, moves = tiny_data_set(folder, 24), folder / "stays", folder / "moves"
    stays.mkdir()
    moves.mkdir()
    run_ranks(1, session, 1, 0, SESSIONS[-1][2], False, str(data), str(stays))
    for stage, ranks, stop in SESSIONS:
        resume = stop != SESSIONS[0][2]
        run_ranks(ranks, session, ranks, stage, stop, resume, str(data), str(moves))
    return stays, moves


@pytest.mark.parametrize("method", METHODS)
def test_every_step_has_the_samples_of_the_run_that_stays(folders: tuple[Path, Path], method: str) -> None:
    stays, moves = (samples(folder, method) for folder in folders)
    assert len(stays) == SESSIONS[-1][2]
    assert moves == stays


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_are_those_of_the_run_that_stays(folders: tuple[Path, Path], method: str) -> None:
    stays, moves = (
        [line["loss"] for line in read_lines(folder / method / "metrics.jsonl")] for folder in folders
    )
    assert len(stays) == SESSIONS[-1][2]
    assert moves == pytest.approx(stays, rel=1e-4)  # DESIGN.md, section 5
    resumed = [line for line in read_lines(folders[1] / method / "events.jsonl") if line["event"] == "resume"]
    assert [line["was"] for line in resumed] == [
        {"world_size": ranks, "zero_stage": stage} for stage, ranks, _ in SESSIONS[:-1]
    ]
