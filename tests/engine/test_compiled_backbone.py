"""torch.compile of the backbone: the same numbers within float32, the same names of weights."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters
from viewmill.engine import model
from viewmill.engine.backbones import build_backbone
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.config import ConfigError
from viewmill.engine.model import Student, build_student
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world

from tests.engine.tiny import metrics, tiny_config, tiny_data_set


def config(**changes: Any) -> Any:
    told = {"model": {"backbone": "test_vit"}, "max_steps": 3, "optimizer": {"name": "sgd", "lr": 0.01}}
    return tiny_config(**{**told, **changes})


def student(compiles: bool) -> Student:
    told = config(model={"backbone": "test_vit", "compile": compiles})
    return build_student(told.model, told.method, image_size=32, seed=0)


def test_names_and_copies_are_those_of_the_plain_backbone() -> None:
    plain, compiled = student(compiles=False), student(compiles=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    copied: Any = copy.deepcopy(compiled.backbone)  # as a teacher is made
    assert copied._compiled_call_impl is None
    assert copied.state_dict().keys() == plain.backbone.state_dict().keys()


def test_it_is_refused_with_what_it_does_not_go_with() -> None:
    with pytest.raises(ConfigError, match=r"model.compile and model.checkpoint_activations exclude"):
        config(model={"compile": True, "checkpoint_activations": True})
    with pytest.raises(ConfigError, match=r"model.compile does not work with zero.stage=3"):
        config(model={"compile": True}, zero={"stage": 3})


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of the network instead of six: it is compiled in a fraction of the time."""

    def build(*arguments: Any, **options: Any) -> nn.Module:
        backbone: Any = build_backbone(*arguments, **options)
        del backbone.blocks[1:]
        return backbone

    monkeypatch.setattr(model, "build_backbone", build)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = start_world("cpu")
    yield world
    stop_world(world)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_training_is_the_eager_one_within_float32(
    tmp_path: Path, world: World, shallow: None, stage: int
) -> None:
    data = tiny_data_set(tmp_path, 24)
    torch.compiler.reset()
    counters.clear()
    for name, compiles in (("plain", False), ("compiled", True)):
        told = config(model={"backbone": "test_vit", "compile": compiles}, zero={"stage": stage})
        train(told, data, tmp_path / name, world=world)
    plain, compiled = metrics(tmp_path / "plain"), metrics(tmp_path / "compiled")
    for here, there in zip(plain, compiled, strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-5, abs=1e-5)
        assert there["grad_norm"] == pytest.approx(here["grad_norm"], rel=1e-3)
    assert counters["stats"]["unique_graphs"] == 2  # one for each size of the views
    exports = [
        load_file(tmp_path / name / "export" / "backbone.safetensors") for name in ("plain", "compiled")
    ]
    assert exports[0].keys() == exports[1].keys()
    assert_close(*exports)


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_network_with_batchnorm_compiles(world: World) -> None:
    module: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    module = convert_batchnorm(module, world.device)
    plain = copy.deepcopy(module)
    module.compile(dynamic=False)
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(module(images), plain(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module[1].running_var, plain[1].running_var, rtol=1e-5, atol=1e-5)
