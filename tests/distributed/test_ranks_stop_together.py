"""What happens to one rank happens to all: signals, unreadable batches, gradients that are no numbers."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from viewmill.engine import feed as feed_module
from viewmill.engine import trainer as trainer_module
from viewmill.engine.config import RunConfig
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world

from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import run_ranks

pytestmark = pytest.mark.slow
UNLUCKY = 1  # the rank that something happens to
STEP = 3  # and when


def config(**changes: Any) -> RunConfig:
    return tiny_config(epochs=2, zero={"stage": 1}, **changes)


def on_two_ranks(rank: int, data: str, folder: str) -> list[str]:
    torch.set_num_threads(1)
    world = start_world("cpu")
    return [
        told(world, data, f"{folder}/whole"),
        told(world, data, f"{folder}/signal", at_step(rank, lambda: os.kill(os.getpid(), signal.SIGUSR1))),
        told(world, data, f"{folder}/signal", resume=True),
        told(world, data, f"{folder}/unreadable", at_step(rank, fail_to_read)),
        told(world, data, f"{folder}/nan", spoil(rank)),
    ]


def told(world: World, data: str, run: str, patch: Any = None, resume: bool = False) -> str:
    """How a training ends on this rank."""
    with pytest.MonkeyPatch.context() as monkey:
        if patch is not None:
            monkey.setattr(*patch)
        try:
            train(config(), data, run, resume=resume, world=world)
        except Exception as error:  # what is told is what the test looks at
            return f"{type(error).__name__}: {error}"
    return "trained"


def fail_to_read() -> None:
    raise OSError("disk is gone")


def at_step(rank: int, happens: Any) -> tuple[Any, str, Any]:
    """`fetch`, to which something happens on one rank."""
    calls: list[None] = []
    real = feed_module.fetch

    def fetch(epoch: Any, count: int) -> Any:
        calls.append(None)
        if rank == UNLUCKY and len(calls) == STEP:
            try:
                happens()
            except OSError as error:
                return [], error
        return real(epoch, count)

    return feed_module, "fetch", fetch


def spoil(rank: int) -> tuple[Any, str, Any]:
    """`train_step`, to which one rank once brings a picture that is no numbers."""
    calls: list[None] = []
    real = trainer_module.train_step

    def step(engine: Any, teacher: Any, micro_batches: list[list[Tensor]], *rest: Any, **options: Any) -> Any:
        calls.append(None)
        if rank == UNLUCKY and len(calls) == STEP:
            micro_batches[0][0][0, 0, 0, 0] = float("nan")
        return real(engine, teacher, micro_batches, *rest, **options)

    return trainer_module, "train_step", step


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The folder of the runs, and what each rank was told at the end of each."""
    folder = tmp_path_factory.mktemp("together")
    data = tiny_data_set(folder, count=26)
    return folder, run_ranks(2, on_two_ranks, str(data), str(folder))


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run / "metrics.jsonl")]


def test_a_signal_on_one_rank_stops_and_saves_all(endings: tuple[Path, list[list[str]]]) -> None:
    folder, (first, second) = endings
    assert first[1] == second[1]
    assert first[1].startswith("Requeue: SIGUSR1 after step 3: saved")
    assert (folder / "signal" / "checkpoints" / "step_00000003").is_dir()


def test_the_stopped_run_ends_as_the_whole_one_bit_for_bit(endings: tuple[Path, list[list[str]]]) -> None:
    folder, (first, second) = endings
    assert first[0] == second[0] == first[2] == second[2] == "trained"
    assert losses(folder / "signal") == losses(folder / "whole")
    whole, resumed = (
        load_file(folder / run / "export" / "backbone.safetensors") for run in ("whole", "signal")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_batch_that_one_rank_cannot_read_ends_all_with_its_reason(
    endings: tuple[Path, list[list[str]]],
) -> None:
    _, (first, second) = endings
    assert first[3] == "RankError: rank 1: OSError: disk is gone"
    assert second[3] == "OSError: disk is gone"


def test_a_gradient_that_is_no_number_on_one_rank_is_skipped_on_all(
    endings: tuple[Path, list[list[str]]],
) -> None:
    folder, (first, second) = endings
    assert first[4] == second[4] == "trained"
    (event,) = [
        line for line in read_lines(folder / "nan" / "events.jsonl") if line["event"] == "skipped_step"
    ]
    assert event["step"] == STEP
    assert len(set(event["ids"])) == 8  # of both ranks
    assert [loss is None for loss in losses(folder / "nan")] == [False, False, True, False, False, False]
    statistics = load_file(folder / "nan" / "export" / "backbone.safetensors")
    assert all(value.isfinite().all() for value in statistics.values())
