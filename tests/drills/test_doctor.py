"""Each stage of a training made slow in turn is the one that `profile` names, and its stages add up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.tiny import tiny_data_set
from tests.tools.doctor.slowing import SLOWED, examined, slow_stage, undone

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with undone():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("slow"), count=40)


@pytest.fixture(scope="module")
def slow_s(data: Path, alone: None) -> float:
    """Several times what a step takes otherwise on this machine, now."""
    return max(0.15, 6 * examined(data, "")["diagnosis"]["step_s"])


@pytest.mark.parametrize("stage", SLOWED)
def test_the_slow_stage_is_named_and_the_stages_add_up_to_the_step(
    data: Path, slow_s: float, stage: str
) -> None:
    with slow_stage(stage, slow_s):
        # The four threads that read sleep at the same time: a multiple of four steps has its share of it.
        found = examined(data, stage, rounds=2, steps=8)["diagnosis"]
    charged = {one["name"]: round(one["charged_s"], 3) for one in found["stages"]}
    assert found["binding"] == stage, charged
    assert found["step_s"] >= 0.9 * slow_s
    assert abs(found["unexplained_s"]) <= 0.1 * found["step_s"], (found["step_s"], charged)
