"""Stages that sleep: `profile` names the one that does, its stages add up, and its predictions come true."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.engine.zero import ZeroEngine
from viewmill.pipelines.executors.host.decoding import Decoder
from viewmill.shards.convert import convert
from viewmill.tools.bench.doctor import SCENARIOS, Scenario, Sizes, run
from viewmill.tools.bench.goals import goals_of

from tests.engine.tiny import tiny_data_set
from tests.tools.doctor.slowing import SLOWED, examined, slow_stage, slowed, undone

# A few minutes on a machine that is calm; what sleeps is as long as a step takes on this one, now.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


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
    return max(0.15, 4 * examined(data, "")["diagnosis"]["step_s"])


@pytest.mark.parametrize("stage", SLOWED)
def test_the_slow_stage_is_named_and_the_stages_add_up_to_the_step(
    data: Path, slow_s: float, stage: str
) -> None:
    # A checkpoint sleeps once a round: most of what is measured is steps as short as ever, which scatter.
    rounds = 5 if stage == "checkpoint" else 2
    with slow_stage(stage, slow_s):
        # The four threads that read sleep at the same time: a multiple of four steps has its share of it.
        found = examined(data, stage, rounds=rounds, steps=8)["diagnosis"]
    charged = {one["name"]: round(one["charged_s"], 3) for one in found["stages"]}
    assert found["binding"] == stage, charged
    assert found["step_s"] >= 0.9 * slow_s
    assert abs(found["unexplained_s"]) <= 0.1 * found["step_s"], (found["step_s"], charged)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 160 pixels as JPEG: a copy of 37 pixels has a twentieth of the bytes."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "source").mkdir()
    for number in range(64):
        pixels = np.random.default_rng(number).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "source" / f"{number}.jpg")
    convert(root / "source", root / "data", workers=1)
    return root / "data"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one processor no other threads are tried")
def test_predicted_gains_of_threads_resolution_and_batch_come_true(
    photographs: Path, slow_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding sleeps by its bytes, an update for a fixed time: so the gains are there to be predicted,
    whatever else the machine does, and every change is really made.
    """
    batch, decode = 16, Decoder.decode
    largest = max(len(path.read_bytes()) for path in (photographs.parent / "source").iterdir())

    def slow_decode(self: Decoder, data: bytes) -> np.ndarray:
        time.sleep(3 * slow_s / batch * len(data) / largest)
        return decode(self, data)

    monkeypatch.setattr(Decoder, "decode", slow_decode)
    monkeypatch.setattr(ZeroEngine, "step", slowed(ZeroEngine.step, slow_s / 2))
    common = ("model.backbone=test_resnet", "views.preset=hydes@32", "views.executor=host")
    common += ("method.projector.hidden=64", "method.projector.dim=16")
    monkeypatch.setitem(
        SCENARIOS, "views", Scenario((*common, f"batch_size={batch}"), ("threads", "resolution"))
    )
    monkeypatch.setitem(SCENARIOS, "steps", Scenario((*common, "batch_size=2"), ("batch",)))
    sizes = Sizes(steps=8, repeats=2, profile_rounds=2, profile_steps=8)
    found = run(str(photographs), sizes)
    assert {row["kind"] for row in found["changes"].values()} == {"threads", "resolution", "batch"}
    assert all(row["measured"] > 1.2 for row in found["changes"].values()), found["changes"]
    missed = [goal for goal in goals_of("doctor", found, found["settings"]) if not goal.met]
    assert not missed, (missed, found["changes"])
