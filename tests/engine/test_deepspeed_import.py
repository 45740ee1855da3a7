"""Weights of DeepSpeed's own checkpoints: what is read, what is refused, and what can be done with them."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from viewmill.engine.config import ConfigError
from viewmill.engine.deepspeed_import import find_prefix, import_deepspeed_checkpoint
from viewmill.engine.evaluation.backbone_source import load_source
from viewmill.engine.model import build_student
from viewmill.engine.partition import whole_state
from viewmill.engine.start_weights import load_start_weights
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.engine.small_training import engine_of
from tests.engine.tiny import tiny_config, tiny_data_set

ALONE = World(0, 1, 0, torch.device("cpu"))
BACKBONE, FIRST = "test_resnet", "conv1.0.weight"  # of its tensors


class Foreign(nn.Module):
    """A model of somebody else's: one or two of timm's backbones below names of their own."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {f"net{number}": timm.create_model(BACKBONE, num_classes=0) for number in range(copies)}
        )
        self.head = nn.Linear(self.encoder["net0"].num_features, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return sum(self.head(net(images)) for net in self.encoder.values())  # type: ignore[return-value]


def take(folder: Path, out: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {"trust": True, "backbone": BACKBONE, "image_size": 32, "world": ALONE}
    return import_deepspeed_checkpoint(folder, out, **(settings | options))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    world = start_world("cpu")
    yield world
    stop_world(world)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_deepspeed_saved_at_any_stage_comes_out_with_the_same_bits(
    tmp_path: Path, world: World, stage: int
) -> None:
    module = Foreign()
    engine = engine_of(world, stage, module)
    engine.backward(engine(torch.randn(2, 3, 32, 32)).square().mean())
    assert engine.step()
    engine._deepspeed.save_checkpoint(str(tmp_path / "ds"))
    expected = {name: tensor.detach().clone() for name, tensor in whole_state(engine.module)}
    imported = take(tmp_path / "ds", tmp_path / "out", world=world)
    assert (imported.prefix, imported.is_whole) == ("encoder.net0.", False)
    found = load_file(tmp_path / "out" / "backbone.safetensors")
    assert found.keys() == timm.create_model(BACKBONE, num_classes=0).state_dict().keys()
    assert all(torch.equal(found[name], expected[f"encoder.net0.{name}"]) for name in found)
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def stage_0_checkpoint(folder: Path, module: nn.Module) -> Path:
    """What DeepSpeed leaves of weights at stage 0, in float32, without DeepSpeed."""
    (folder / "global_step1").mkdir(parents=True)
    (folder / "latest").write_text("global_step1")
    torch.save({"module": module.state_dict()}, folder / "global_step1" / "mp_rank_00_model_states.pt")
    return folder


class Trap:
    """A pickle that leaves a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_without_trust_nothing_is_loaded_and_it_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ds" / "mp_rank_00_model_states.pt"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    words = ["import-deepspeed", str(tmp_path / "ds"), "--backbone", BACKBONE, "--out", str(tmp_path / "out")]
    assert run_app(app, words) == 2
    assert "pickles, and loading one runs whatever its author has put in it; pass --trust" in (
        capsys.readouterr().err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds"]


def test_the_command_tells_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stage_0_checkpoint(tmp_path / "ds", Foreign())
    words = ["import-deepspeed", str(folder), "--backbone", BACKBONE, "--out", str(tmp_path / "out")]
    assert run_app(app, [*words, "--trust", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tag"], told["prefix"], told["is_whole"]) == ("global_step1", "encoder.net0.", False)
    assert run_app(app, [*words, "--trust"]) == 2  # never over something
    assert "is not empty" in capsys.readouterr().err


def test_two_backbones_need_a_prefix(tmp_path: Path) -> None:
    module = Foreign(copies=2)
    folder = stage_0_checkpoint(tmp_path / "ds", module)
    with pytest.raises(ConfigError, match=r"2 backbones .* one of 'encoder.net0.', 'encoder.net1.'"):
        take(folder, tmp_path / "out")
    take(folder, tmp_path / "out", prefix="encoder.net1.")
    found = load_file(tmp_path / "out" / "backbone.safetensors")
    assert torch.equal(found[FIRST], module.encoder["net1"].state_dict()[FIRST])


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    module = Foreign()
    take(stage_0_checkpoint(tmp_path / "ds", module.bfloat16()), tmp_path / "out")
    found = load_file(tmp_path / "out" / "backbone.safetensors")[FIRST]
    assert found.dtype == torch.float32
    assert torch.equal(found, module.encoder["net0"].state_dict()[FIRST].float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet18"}, r"no such backbone below the prefix .*conv1\.weight is \(.*\), not \("),
        ({"backbone": "resnet19"}, "is no timm model; the nearest is"),
        ({"prefix": "student."}, r"student\.conv1\.0\.weight is missing"),
    ],
)
def test_another_backbone_is_refused_with_what_does_not_fit(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    folder = stage_0_checkpoint(tmp_path / "ds", Foreign())
    with pytest.raises(ConfigError, match=message):
        take(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_or_a_split_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no checkpoint of DeepSpeed"):
        take(tmp_path / "empty", tmp_path / "out")
    folder = stage_0_checkpoint(tmp_path / "ds", nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="no such backbone below the prefix ''"):
        take(folder, tmp_path / "out")
    (folder / "global_step1" / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(ConfigError, match=r"mp_rank_01_model_states\.pt is of a model that was split"):
        take(folder, tmp_path / "out")


def test_a_prefix_is_found_at_the_start_of_a_name_only() -> None:
    wanted = timm.create_model(BACKBONE, num_classes=0)
    state = {f"a.{name}": value for name, value in wanted.state_dict().items()}
    state[f"a.b_{FIRST}"] = state[f"a.{FIRST}"]
    assert find_prefix(state, wanted, "here") == "a."


@pytest.mark.slow
def test_imported_weights_are_evaluated_and_trained_on(tmp_path: Path, world: World) -> None:
    config = tiny_config(epochs=1)
    data = tiny_data_set(tmp_path, count=8)
    student = build_student(config.model, config.method, image_size=32, seed=5)
    imported = take(stage_0_checkpoint(tmp_path / "ds", student), tmp_path / "out")
    assert imported.is_whole
    source = load_source(tmp_path / "out", ALONE)
    assert (source.image_size, source.about["backbone"]) == (32, BACKBONE)
    assert torch.equal(source.backbone.state_dict()[FIRST], student.backbone.state_dict()[FIRST])

    for name in ("backbone", "weights"):
        other = build_student(config.model, config.method, image_size=32, seed=6)
        load_start_weights(other, str(tmp_path / "out" / f"{name}.safetensors"), ALONE)
        expected = student.state_dict()
        same = {key for key, value in other.state_dict().items() if torch.equal(value, expected[key])}
        heads = {key for key in other.state_dict() if key.startswith("method.") and key.endswith("weight")}
        assert (heads <= same) == (name == "weights")

    still = {"model": {"backbone": BACKBONE, "weights": str(tmp_path / "out" / "weights.safetensors")}}
    frozen = {"optimizer": {"lr": 1e-30, "weight_decay": 0.0}}
    train(tiny_config(epochs=2, max_steps=1, **still, **frozen), data, tmp_path / "run", world=world)
    exported = load_file(tmp_path / "run" / "export" / "backbone.safetensors")
    assert torch.equal(exported[FIRST], student.backbone.state_dict()[FIRST])
    (tmp_path / "out" / "weights.safetensors").unlink()  # a resumed run has its own
    train(tiny_config(epochs=2, **still, **frozen), data, tmp_path / "run", resume=True, world=world)


def test_other_start_weights_are_refused(tmp_path: Path) -> None:
    config = tiny_config()
    student = build_student(config.model, config.method, image_size=32, seed=5)
    file = tmp_path / "x.safetensors"
    with pytest.raises(ConfigError, match=r"model\.weights=.*x\.safetensors: .*give a safetensors file"):
        load_start_weights(student, str(file), ALONE)
    save_file({"fc.weight": torch.zeros(2)}, file)
    with pytest.raises(ConfigError, match=r"its tensors are not the backbone's: .*Unexpected key"):
        load_start_weights(student, str(file), ALONE)
    save_file({"backbone.fc.weight": torch.zeros(2)}, file)
    with pytest.raises(ConfigError, match="its tensors are not the student's, head included"):
        load_start_weights(student, str(file), ALONE)
    load_start_weights(student, None, ALONE)
