"""Training in float16 under DeepSpeed, on the CPU's slow kernels: what is scaled, and what is not."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from viewmill.engine.config import ConfigError
from viewmill.engine.optimizers import Rates
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train as train_run
from viewmill.engine.world import World, start_world, stop_world
from viewmill.engine.zero import ZeroEngine

from tests.engine.small_training import STAGES, engine_of, equal, images
from tests.engine.tiny import metrics, tiny_config, tiny_data_set
from tests.engine.two_ranks import held, without_norms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = start_world("cpu")
    yield world
    stop_world(world)


@pytest.fixture(autouse=True)
def any_cpu_will_do(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """DeepSpeed asks for a CPU with instructions for float16; torch's kernels do without, slowly."""
    if "refused" not in request.node.name:
        monkeypatch.setattr(deepspeed.get_accelerator(), "is_fp16_supported", lambda: True)


SGD = {"name": "sgd", "lr": 1e-2, "momentum": 0.0}


def fp16_engine(world: World, stage: int, **scale: Any) -> ZeroEngine:
    told = {"precision": "fp16", "loss_scale": scale, "optimizer": SGD}
    return engine_of(world, stage, without_norms(), **told)


def take_step(engine: ZeroEngine, step: int, factor: float = 1.0) -> bool:
    """One step on `factor` times the loss of small_training's."""
    loss = engine(images(step).half()).float().square().mean() * factor
    engine.backward(loss)
    return engine.step()


def moved(engine: ZeroEngine, start: dict[str, torch.Tensor]) -> torch.Tensor:
    """The way of all float32 weights together."""
    now = held(engine)
    return torch.cat([(now[key] - start[key]).reshape(-1) for key in start if key.startswith("weight ")])


def test_a_cpu_without_float16_is_refused_with_what_to_set(world: World) -> None:
    if deepspeed.get_accelerator().is_fp16_supported():
        pytest.skip("this CPU has instructions for float16")
    with pytest.raises(ConfigError, match="precision=fp16: this cpu has no float16"):
        fp16_engine(world, 0)


@pytest.mark.parametrize("stage", STAGES)
def test_an_overflow_changes_nothing_but_the_scale(world: World, stage: int) -> None:
    engine = fp16_engine(world, stage, initial=2.0**40, growth_interval=2)
    before = held(engine)
    assert not take_step(engine, 0)
    assert engine.grad_norm() == math.inf
    assert equal(held(engine), before)
    assert engine.lower_loss_scale()
    while not take_step(engine, 0):
        engine.lower_loss_scale()
    assert not equal(held(engine), before)
    engine.lower_loss_scale()  # the next batch may have a larger gradient
    scale = engine.loss_scale.value
    assert take_step(engine, 0)
    assert take_step(engine, 1)
    assert engine.loss_scale.value == 2 * scale


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_below_float16s_range_is_lost_without_a_scale_and_kept_with_one(
    world: World, stage: int
) -> None:
    tiny, ways = 2.0**-26, {}
    for name, scale in (("none", 1.0), ("scaled", 2.0**24)):
        engine = fp16_engine(world, stage, initial=scale)
        engine.set_rates(Rates(1e-2 / tiny, 0.0, 0.0))
        start = held(engine)
        assert take_step(engine, 0, tiny)
        ways[name] = moved(engine, start), engine.grad_norm() / tiny
    plain = engine_of(world, stage, without_norms(), optimizer=SGD)
    start = held(plain)
    plain.backward(plain(images(0)).square().mean())
    plain.step()
    expected = moved(plain, start)
    # float16 keeps 11 bits of each weight, activation and gradient.
    assert (ways["scaled"][0] - expected).norm() <= 2**-8 * expected.norm()
    assert ways["scaled"][1] == pytest.approx(plain.grad_norm(), rel=2**-8)
    assert (ways["none"][0] - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_are_scaled_as_the_whole_batch_is(world: World, stage: int) -> None:
    tiny = 2.0**-26
    whole, quarters = (fp16_engine(world, stage, initial=2.0**24) for _ in range(2))
    start = held(whole)
    assert take_step(whole, 0, tiny)
    *first, last = images(0).half().chunk(4)
    for quarter in first:
        outputs = quarters.forward_aside(quarter)
        quarters.accumulate(outputs, outputs.detach().float() * 2 * tiny / (4 * outputs.numel()))
    quarters.backward(quarters(last).float().square().mean() * (tiny / 4))
    assert quarters.step()
    assert quarters.grad_norm() == pytest.approx(whole.grad_norm(), rel=2**-8)
    difference = moved(quarters, start) - moved(whole, start)
    assert difference.norm() <= 2**-8 * moved(whole, start).norm()


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_knows_nothing_of_the_scale(world: World, stage: int) -> None:
    told = {"precision": "fp16", "optimizer": {**SGD, "weight_decay": 0.0, "clip_grad_norm": 1e-3}}
    ways = []
    for scale in (1.0, 1024.0):
        engine = engine_of(world, stage, without_norms(), **told, loss_scale={"initial": scale})
        start = held(engine)
        assert take_step(engine, 0)
        ways.append(moved(engine, start).norm().item())
    assert ways == pytest.approx([1e-2 * 1e-3] * 2, rel=2**-8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("fp16"), 24)


def config(**changes: Any) -> Any:
    """A distillation, whose teacher computes in float16 too, from a scale that is too high."""
    method = {
        "name": "distill",
        "num_clusters": 8,
        "projector": {"layers": 2, "hidden": 16, "dim": 8},
    }
    told = {
        "precision": "fp16",
        "epochs": 2,
        "batch_size": 4,
        "views": {"preset": "imsvd@32", "executor": "reference", "num_threads": 1},
        "model": {"backbone": "test_vit"},
        "method": method,
        "loss_scale": {"initial": 2.0**14, "growth_interval": 3},
        "checkpoint": {"every_steps": 1, "keep": 100},
    }
    return tiny_config(**{**told, **changes})


def test_a_run_finds_its_scale_and_goes_on_with_it_after_a_resume(
    data: Path, tmp_path: Path, world: World
) -> None:
    train_run(config(), data, tmp_path / "whole", world=world)
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    overflows = [
        line for line in read_lines(tmp_path / "whole" / "events.jsonl") if line["event"] == "overflow"
    ]
    assert overflows[0]["loss_scale"] == 2.0**13
    scales = [line["loss_scale"] for line in lines]
    assert any(later > sooner for sooner, later in itertools.pairwise(scales))
    ends = [line for line in read_lines(tmp_path / "whole" / "events.jsonl") if line["event"] == "end"]
    assert (ends[0]["skipped"], ends[0]["overflows"]) == (0, len(overflows))
    assert all(math.isfinite(line["loss"]) for line in lines)

    middle = overflows[-1]["step"] + 1
    train_run(config(max_steps=middle), data, tmp_path / "parts", world=world)
    train_run(config(), data, tmp_path / "parts", resume=True, world=world)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
