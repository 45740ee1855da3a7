"""The student: views in, embeddings out."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from viewmill.engine.config import ModelConfig
from viewmill.engine.method_config import HydesConfig, ProjectorConfig
from viewmill.engine.model import Student, build_student

METHOD = HydesConfig(projector=ProjectorConfig(layers=2, hidden=32, dim=8))


def student(seed: int = 0, channels_last: bool = False) -> Student:
    model = ModelConfig(backbone="test_resnet", channels_last=channels_last)
    return build_student(model, METHOD, image_size=32, seed=seed)


def views(sizes: tuple[int, ...] = (32, 32, 16, 16, 16), images: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, 3, size, size, generator=generator) for size in sizes]


def test_every_view_has_its_embedding_in_the_order_of_the_views() -> None:
    module, batch = student().eval(), views()
    together = module(batch)
    assert together.shape == (5, 4, 8)
    alone = torch.stack([module.method.embed(module.backbone(view)) for view in batch])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_views_of_one_size_go_through_the_backbone_together() -> None:
    module, seen = student(), []
    module.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    module(views())
    assert seen == [(8, 3, 32, 32), (12, 3, 16, 16)]


@pytest.mark.parametrize(
    ("at_once", "backbone", "head"),
    [("all", [8, 12], [20]), ("size", [8, 12], [8, 12]), ("view", [4] * 5, [4] * 5), (None, [8, 12], [20])],
)
def test_what_goes_through_together_is_a_choice(
    at_once: Literal["all", "size", "view"] | None, backbone: list[int], head: list[int]
) -> None:
    model = ModelConfig(backbone="test_resnet", batchnorm_views=at_once)
    module = build_student(model, METHOD, image_size=32, seed=0)
    seen: dict[str, list[int]] = {"backbone": [], "head": []}
    module.backbone.register_forward_pre_hook(lambda _, args: seen["backbone"].append(len(args[0])))
    module.method.projector.register_forward_pre_hook(lambda _, args: seen["head"].append(len(args[0])))
    embeddings = module(views())
    assert embeddings.shape == (5, 4, 8)
    assert seen == {"backbone": backbone, "head": head}


def test_a_norm_of_each_view_by_itself_forgets_how_views_differ() -> None:
    # Each view is the first one times a number, which a BatchNorm of the view alone takes out again.
    base = views((32,))[0]
    batch = [base, 3 * base, 5 * base]
    spread = {}
    for at_once in ("all", "view"):
        model = ModelConfig(backbone="test_resnet", batchnorm_views=at_once)
        z = build_student(model, METHOD, image_size=32, seed=0)(batch)
        spread[at_once] = float((z - z[:1]).norm() / z.norm())
    assert spread["view"] < 1e-3 < 0.1 < spread["all"]


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(5)
    first = student(seed=1).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(6)
    again, other = student(seed=1).state_dict(), student(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.conv1.0.weight"], other["backbone.conv1.0.weight"])
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)  # the process's own generator is left where it was


def test_bfloat16_weights_take_float32_views() -> None:
    assert student().bfloat16()(views()).dtype == torch.bfloat16


def test_channels_last_is_the_same_function_in_another_layout() -> None:
    module, batch = student(channels_last=True).eval(), views()
    weight = next(parameter for parameter in module.backbone.parameters() if parameter.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(batch), student().eval()(batch), rtol=1e-4, atol=1e-4)


def test_a_backbone_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="resnet81"):
        build_student(ModelConfig(backbone="resnet81"), METHOD, image_size=32, seed=0)
