"""Whole trainings by micro-batches, on one rank: their curves, how they resume, and what they skip."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.loading import loader_options
from viewmill.engine.samples import order_of_run
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.methods.families.hydes import HyDeS
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import metrics, tiny_config

pytestmark = pytest.mark.slow
VIT: dict[str, Any] = {"model": {"backbone": "test_vit"}, "optimizer": {"lr": 1e-4}}
HYDES = {"beta": 0.5, "projector": {"layers": 1, "dim": 16}}
DISTILL = {
    "name": "distill",
    "num_clusters": 24,
    "projector": {"layers": 2, "hidden": 32, "dim": 16},
    "teacher": {"kind": "ema", "momentum": 0.9},
    "scope": "ema",
}
FIGURES = ("loss", "grad_norm", "mean_cosine", "effective_rank", "h_global", "h_local")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, data: Path, world: World) -> Path:
    """Five steps of a ViT without micro-batches, on views of two sizes."""
    run_dir = tmp_path_factory.mktemp("large") / "run"
    train(vit_config(), data, run_dir, world=world)
    return run_dir


def vit_config(**changes: Any) -> RunConfig:
    return tiny_config(**({**VIT, "method": HYDES, "max_steps": 5} | changes))


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(run_dir / "events.jsonl") if event["event"] == kind]


def held(run_dir: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint: weights, optimiser state, buffers, teacher."""
    opened = checkpoint.Checkpoint.open(checkpoint.newest(run_dir / "checkpoints")[0])
    kinds = ("weight", *opened.manifest.kinds)
    found = {f"{kind} {name}": value for kind in kinds for name, value in opened.read_full(kind).items()}
    return {**found, **opened.buffers()}


def assert_same_curve(run_dir: Path, other: Path) -> None:
    """Loss, gradient norm and diagnostics, which so are of the whole batch, within the order of sums."""
    ours, theirs = metrics(run_dir), metrics(other)
    assert len(ours) == len(theirs) == 5
    for line, expected in zip(ours, theirs, strict=True):
        assert [line[name] for name in FIGURES] == pytest.approx([expected[name] for name in FIGURES], 1e-4)
        assert line["samples"] == expected["samples"]


@pytest.mark.parametrize(("accumulation", "stage"), [(2, 0), (4, 2)])
def test_micro_batches_give_the_curves_of_the_large_batch(
    large: Path, data: Path, tmp_path: Path, world: World, accumulation: int, stage: int
) -> None:
    config = vit_config(accumulation=accumulation, zero={"stage": stage})
    train(config, data, tmp_path / "run", world=world)
    assert_same_curve(tmp_path / "run", large)
    ours, theirs = events(tmp_path / "run", "epoch"), events(large, "epoch")
    assert [event["trained"] for event in ours] == [event["trained"] for event in theirs] == [24]


def test_the_micro_batches_of_a_step_are_rendered_ahead(data: Path, world: World) -> None:
    with Dataset.open(data) as dataset:
        for accumulation, ahead in ((1, 2), (4, 4)):
            config = vit_config(accumulation=accumulation)
            options = loader_options(config, world, order_of_run(config, dataset))
            assert (options["accumulation"], options["prefetch"]) == (accumulation, ahead)


@pytest.mark.parametrize("loss_precision", ["float32", "model"])
def test_micro_batches_of_bf16_differ_by_its_rounding(
    data: Path, tmp_path: Path, world: World, loss_precision: str
) -> None:
    curves = []
    for accumulation in (1, 4):
        run_dir = tmp_path / str(accumulation)
        config = vit_config(
            accumulation=accumulation,
            precision="bf16",
            loss_precision=loss_precision,
            zero={"stage": 1},
            optimizer={"name": "sgd", "lr": 0.01},
        )
        train(config, data, run_dir, world=world)
        curves.append([[line[name] for line in metrics(run_dir)] for name in ("loss", "grad_norm")])
    for ours, theirs in zip(*curves, strict=True):
        assert ours == pytest.approx(theirs, rel=2**-7)  # of 8 bits


def test_a_run_without_batchnorm_goes_on_with_other_micro_batches(
    large: Path, data: Path, tmp_path: Path, world: World
) -> None:
    train(vit_config(max_steps=2), data, tmp_path / "run", world=world)
    train(vit_config(accumulation=4), data, tmp_path / "run", resume=True, world=world)
    assert_same_curve(tmp_path / "run", large)
    assert events(tmp_path / "run", "resume")[0]["accumulation"] == 4


def test_a_run_with_batchnorm_does_not(data: Path, tmp_path: Path, world: World) -> None:
    train(tiny_config(max_steps=1), data, tmp_path / "run", world=world)
    before = read_lines(tmp_path / "run" / "events.jsonl")
    with pytest.raises(ConfigError, match="accumulation was 1, now 2: the network has a BatchNorm"):
        train(tiny_config(max_steps=2, accumulation=2), data, tmp_path / "run", resume=True, world=world)
    assert read_lines(tmp_path / "run" / "events.jsonl") == before


def test_a_resumed_run_with_teacher_and_batchnorm_equals_the_uninterrupted_one(
    data: Path, tmp_path: Path, world: World
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"method": DISTILL, "accumulation": 2}
    train(tiny_config(**options, max_steps=5), data, whole, world=world)
    train(tiny_config(**options, max_steps=2), data, parts, world=world)
    train(tiny_config(**options, max_steps=5), data, parts, resume=True, world=world)
    assert metrics(parts) == metrics(whole)
    ours, theirs = held(parts), held(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    counts = {name: value for name, value in ours.items() if name.endswith("num_batches_tracked")}
    assert {name.startswith("teacher.") for name in counts} == {True, False}
    # The student's backbone has a forward for each of two sizes, its head and the teacher have one.
    assert {
        name: int(value)
        for name, value in counts.items()
        if value != (10 if name.startswith("backbone.") else 5)
    } == {}


def test_a_skipped_step_names_all_samples_and_leaves_no_trace(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    train(tiny_config(accumulation=2, max_steps=1), data, run_dir, world=world)
    before, real = held(run_dir), HyDeS.loss

    def spoiled(self: HyDeS, z: Tensor, *args: Any) -> Any:
        result = real(self, z, *args)
        return result._replace(loss=result.loss + float("nan"))

    monkeypatch.setattr(HyDeS, "loss", spoiled)
    train(tiny_config(accumulation=2, max_steps=2), data, run_dir, resume=True, world=world)
    (event,) = events(run_dir, "skipped_step")
    assert (event["step"], len(set(event["ids"]))) == (2, 8)
    after = held(run_dir)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
