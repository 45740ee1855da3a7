"""A stage made slow is the one that is named, on one rank and on two; each stage in turn: tests/drills."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from viewmill.engine.model import Student
from viewmill.tools.doctor import loader_alone
from viewmill.tools.doctor.page import render
from viewmill.tools.doctor.verdict import verdict

from tests.engine.tiny import tiny_data_set
from tests.support import run_ranks
from tests.tools.doctor.slowing import BATCH, examined, slow_stage, slowed, undone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("slow"), count=40)


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with undone():
        yield


@pytest.fixture(scope="module")
def slow_s(data: Path, alone: None, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds by which a step is made longer: several times what it takes otherwise on this machine, now.

    By the way: nothing of the measurement is left behind but what was asked for.
    """
    folder, original = tmp_path_factory.mktemp("left"), dist.all_reduce
    found = examined(data, "", scratch=folder, traces=folder)
    assert [path.name for path in folder.iterdir()] == ["rank-0.json.gz"]
    assert dist.all_reduce is original
    assert found["arithmetic"]["flops"] > 1e6
    return max(0.06, 4 * found["diagnosis"]["step_s"])


@pytest.mark.parametrize("stage", ["decode", "loss"])
def test_the_slow_stage_is_the_one_that_is_named(data: Path, slow_s: float, stage: str) -> None:
    with slow_stage(stage, slow_s):
        found = examined(data, stage)["diagnosis"]
    charged = {one["name"]: round(one["charged_s"], 3) for one in found["stages"]}
    assert found["binding"] == stage, charged
    assert found["step_s"] >= 0.9 * slow_s  # batches that stood ready may have shortened a wait


def _examined_on_a_rank(rank: int, data: Path, slow_s: float) -> str:
    """Once with slow collectives, once with a slow forward on rank 1."""
    loader_alone.LEAST_IMAGES = BATCH // 2
    with pytest.MonkeyPatch.context() as patch:
        # BatchNorm alone asks for more than thirty in a step.
        patch.setattr(dist, "all_reduce", slowed(dist.all_reduce, slow_s / 30))
        first = examined(data, "communication")
    if rank == 1:
        Student.forward = slowed(Student.forward, slow_s)  # type: ignore[method-assign]
    second = examined(data, "forward")
    told = verdict(second)
    if rank == 0:
        assert '"kind": "map"' in render({"recipe": "tiny", "verdict": told, **second})
    return json.dumps([[first["diagnosis"], first["ranks"][0]["sent"], verdict(first)], second, told])


@pytest.mark.soak  # two ranks that share a core with others wait for each other whatever was made slow
def test_slow_communication_is_named_and_a_slow_rank_is_not_taken_for_it(data: Path, slow_s: float) -> None:
    for told in run_ranks(2, _examined_on_a_rank, data, slow_s):
        (diagnosis, sent, lines), second, second_lines = json.loads(told)
        assert diagnosis["binding"] == "communication", diagnosis["stages"]
        assert diagnosis["straggler"] is None
        assert lines[0].startswith("communication-bound: ")
        assert sent["gradient sums"]["bytes"] > 1e6  # 0.4 M parameters
        assert sent["statistics over ranks"]["calls"] > 10
        assert second_lines[1].startswith("rank 1 holds the others up: forward takes ")
        assert second["diagnosis"]["binding"] == "forward", second["diagnosis"]["stages"]
        straggler = second["diagnosis"]["straggler"]
        assert (straggler["rank"], straggler["part"]) == (1, "forward")
        assert len(second["stragglers"]["ranks"]) == 2
