"""torchvision's weights: those of torch hub's cache, of a file, and what is said where there are none."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from viewmill.engine.evaluation.backbone_source import load_source
from viewmill.engine.exports.layouts import RESNETS
from viewmill.engine.world import World

from tests.engine.evaluation.hub_cache import cached, drawn_resnet18

ALONE = World(0, 1, 0, torch.device("cpu"))
RESNET18 = "resnet18-f37072fd.pth"  # how torch hub calls it


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return drawn_resnet18()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_cached_weights_give_the_features_that_torchvision_gives(
    tmp_path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path, network, monkeypatch)
    found = load_source("torchvision:resnet18", ALONE)
    assert (found.name, found.image_size) == ("torchvision:resnet18.IMAGENET1K_V1", 224)
    assert found.mean == (0.485, 0.456, 0.406)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network.fc(found.backbone.eval()(images))
        torch.testing.assert_close(logits, network(images))


def test_weights_that_are_not_there_say_which_file_is_missing_and_how_to_give_another(cache: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_source("torchvision:resnet18", ALONE)
    message = str(caught.value)
    assert str(cache / RESNET18) in message
    assert f"/models/{RESNET18}" in message  # where torchvision publishes it
    assert "torchvision:resnet18=FILE" in message
    assert "\n" not in message


def test_a_cached_file_with_other_bytes_than_its_name_says_is_refused_unless_it_is_named(
    cache: Path, network: torch.nn.Module
) -> None:
    torch.save(network.state_dict(), cache / RESNET18)
    with pytest.raises(ValueError, match=r"begins with [0-9a-f]{8}, its name says f37072fd"):
        load_source("torchvision:resnet18", ALONE)
    found = load_source(f"torchvision:resnet18={cache / RESNET18}", ALONE)
    assert found.name == f"torchvision:resnet18={RESNET18}"
    assert torch.equal(found.backbone.state_dict()["bn1.weight"], network.state_dict()["bn1.weight"])


def test_a_safetensors_file_without_a_classifier_is_taken(tmp_path: Path, network: torch.nn.Module) -> None:
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "mine.safetensors")
    found = load_source(f"torchvision:resnet18={tmp_path / 'mine.safetensors'}", ALONE)
    assert torch.equal(found.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


class Harmful:
    """What a pickle may call when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("/dev/null",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the weights as torchvision:NAME=FILE"),
        (b"no weights", "no weights can be read of it"),
        ({"conv1.weight": Harmful()}, "no weights can be read of it"),
        ([torch.zeros(1)], "is no state_dict, tensors by name, but a list"),
        ({"conv1.weight": torch.zeros(1)}, "the weights are not this backbone's: .*Missing key"),
    ],
)
def test_a_file_without_such_weights_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_source(f"torchvision:resnet18={path}", ALONE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "torchvision:resnet19",
            r"timm and torchvision build alike; the nearest is resnet1",
        ),
        ("torchvision:resnet18.IMAGENET1K_V9", "no such weights; one of IMAGENET1K_V1"),
    ],
)
def test_names_that_torchvision_does_not_have_are_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_source(source, ALONE)


@pytest.mark.parametrize("name", RESNETS)
def test_every_backbone_has_weights_with_the_hash_in_their_name(name: str) -> None:
    """So that none is read unchecked."""
    for weights in torchvision.models.get_model_weights(name):
        assert re.search(r"-[0-9a-f]{8}\.pth$", weights.url)
