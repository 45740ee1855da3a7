"""Each stage made slow in turn is the one that is named, on one rank and on two."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from viewmill.engine import run_checkpoints
from viewmill.engine.config import RunConfig
from viewmill.engine.model import Student
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import start_world, stop_world
from viewmill.engine.zero import ZeroEngine
from viewmill.methods.families.hydes import HyDeS
from viewmill.pipelines.executors.host import executor as host
from viewmill.pipelines.executors.host.decoding import Decoder
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor import loader_alone
from viewmill.tools.doctor.examination import examine
from viewmill.tools.doctor.page import render
from viewmill.tools.doctor.verdict import verdict

from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import run_ranks

pytestmark = pytest.mark.slow

BATCH = 4
JOB = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
# What is slowed, by which function, and how many times in a step's time it is called.
SLOWED: dict[str, tuple[Any, str, float]] = {
    "storage read": (Dataset, "read", 0.25),  # four threads read
    "decode": (Decoder, "decode", BATCH),
    "augment": (host, "render_image", BATCH),
    "forward": (Student, "forward", 1),
    "loss": (HyDeS, "loss", 1),
    "backward": (ZeroEngine, "backward", 1),
    "optimiser": (ZeroEngine, "step", 1),
    "logging": (RunLog, "metrics", 1),
    "checkpoint": (run_checkpoints.checkpoint, "begin", 1),
}


def slowed(original: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*args: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return original(*args, **named)

    return slow


def settings(stage: str = "") -> RunConfig:
    """A line of the log each step; checkpoints only where they are slowed, for a disk may be slow too."""
    every = 1 if stage == "checkpoint" else None
    views = {"preset": "hydes@32", "executor": "host", "num_threads": 1, "prefetch": 1}
    return tiny_config(batch_size=BATCH, views=views, checkpoint={"every_epochs": None, "every_steps": every})


def examined(data: Path, stage: str) -> dict[str, Any]:
    world = start_world("cpu")
    try:
        return examine(settings(stage), data, world=world, rounds=1, steps=2, trials=False)
    finally:
        stop_world(world)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("slow"), count=40)


@pytest.fixture(scope="module", autouse=True)
def undone() -> Iterator[None]:
    """What a training in this process sets: variables of a job, and the number of torch's threads."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in JOB.items():
            patch.setenv(name, value)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def slow_s(data: Path, undone: None) -> float:
    """Seconds by which a step is made longer: several times what it takes otherwise on this machine, now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_alone, "LEAST_IMAGES", BATCH)
        return max(0.15, 4 * examined(data, "")["diagnosis"]["step_s"])


@pytest.mark.parametrize("stage", SLOWED)
def test_the_slow_stage_is_the_one_that_is_named(
    data: Path, slow_s: float, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, calls = SLOWED[stage]
    monkeypatch.setattr(where, name, slowed(getattr(where, name), slow_s / calls))
    monkeypatch.setattr(loader_alone, "LEAST_IMAGES", BATCH)
    found = examined(data, stage)["diagnosis"]
    charged = {one["name"]: round(one["charged_s"], 3) for one in found["stages"]}
    assert found["binding"] == stage, charged
    assert found["step_s"] >= 0.9 * slow_s  # batches that stood ready may have shortened a wait


def _examined_on_a_rank(rank: int, data: Path, slow: str, slow_s: float) -> str:
    loader_alone.LEAST_IMAGES = BATCH // 2
    if slow == "communication":
        dist.all_reduce = slowed(dist.all_reduce, slow_s / 30)  # BatchNorm alone asks for more in a step
    elif rank == 1:
        Student.forward = slowed(Student.forward, slow_s)  # type: ignore[method-assign]
    found = examined(data, slow)
    told = verdict(found)
    page = render({"recipe": "tiny", "verdict": told, **found}) if rank == 0 else '"kind": "map"'
    assert '"kind": "map"' in page
    return json.dumps([found["diagnosis"], found["ranks"][0]["sent"], found["stragglers"], told])


def test_slow_communication_is_named_and_a_slow_rank_is_not_taken_for_it(data: Path, slow_s: float) -> None:
    for told in run_ranks(2, _examined_on_a_rank, data, "communication", slow_s):
        diagnosis, sent, _, lines = json.loads(told)
        assert diagnosis["binding"] == "communication", diagnosis["stages"]
        assert diagnosis["straggler"] is None
        assert lines[0].startswith("communication-bound: ")
        assert sent["gradient sums"]["bytes"] > 1e6  # 0.4 M parameters
        assert sent["statistics over ranks"]["calls"] > 10
    for told in run_ranks(2, _examined_on_a_rank, data, "rank 1", slow_s):
        diagnosis, _, stragglers, lines = json.loads(told)
        assert lines[1].startswith("rank 1 holds the others up: forward takes ")
        assert diagnosis["binding"] == "forward", diagnosis["stages"]
        assert (diagnosis["straggler"]["rank"], diagnosis["straggler"]["part"]) == (1, "forward")
        assert len(stragglers["ranks"]) == 2


def test_nothing_of_the_measurement_is_left_behind(data: Path, tmp_path: Path) -> None:
    world, original = start_world("cpu"), dist.all_reduce
    try:
        found = examine(
            settings(), data, world=world, rounds=1, steps=1, trials=False, scratch=tmp_path, traces=tmp_path
        )
    finally:
        stop_world(world)
    assert [path.name for path in tmp_path.iterdir()] == ["rank-0.json.gz"]
    assert dist.all_reduce is original
    assert found["arithmetic"]["flops"] > 1e6
