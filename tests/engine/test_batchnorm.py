"""BatchNorm over ranks is torch's BatchNorm on the concatenated batch."""

from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from viewmill.engine.batchnorm import GlobalBatchNorm, convert_batchnorm

from tests.support import run_ranks

CPU = torch.device("cpu")
# (shape of the global batch, type, affine, momentum)
CASES: list[tuple[tuple[int, ...], torch.dtype, bool, float | None]] = [
    ((12, 5), torch.float64, True, 0.1),
    ((12, 3, 4, 2), torch.float64, True, 0.1),
    ((12, 3, 4, 2), torch.float64, False, None),
    ((12, 3, 4, 2), torch.float32, True, 0.3),
    ((12, 3, 4, 2), torch.bfloat16, True, 0.1),
]
CHANNELS_LAST = 3


def batch_of(case: int, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and upstream gradients, far from zero mean."""
    shape, dtype, _, _ = CASES[case]
    generator = torch.Generator().manual_seed(10 * case + step)
    values, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x = (5 + 3 * values).to(dtype)
    if case == CHANNELS_LAST:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, upstream.to(dtype)


def norm_of(case: int, kind: type[nn.Module]) -> Any:
    shape, dtype, affine, momentum = CASES[case]
    norm: Any = kind(shape[1], momentum=momentum, affine=affine)
    if affine:
        norm.weight.data.copy_(torch.linspace(0.5, 2, shape[1]))
        norm.bias.data.copy_(torch.linspace(-1, 1, shape[1]))
    return norm.double() if dtype == torch.float64 else norm


def share_of(rank: int, world_size: int) -> slice:
    """Unequal shares of twelve images; one of four ranks has none."""
    edges = {1: [0, 12], 2: [0, 5, 12], 4: [0, 2, 2, 8, 12]}[world_size]
    return slice(edges[rank], edges[rank + 1])


def train_two_steps(rank: int) -> list[dict[str, Tensor]]:
    world_size, results = dist.get_world_size(), []
    for case in range(len(CASES)):
        norm = norm_of(case, GlobalBatchNorm)
        for step in range(2):
            x, upstream = (part[share_of(rank, world_size)] for part in batch_of(case, step))
            x = x.clone(memory_format=torch.preserve_format).requires_grad_()
            norm.zero_grad()
            y = norm(x)
            y.backward(world_size * upstream)  # the convention: world-size times this rank's part
        evaluated = norm.eval()(x)
        figures = {"y": y, "grad": x.grad / world_size, "evaluated": evaluated, **dict(norm.named_buffers())}
        if case == CHANNELS_LAST:
            for part in (y, x.grad):
                assert part.is_contiguous(memory_format=torch.channels_last)
        figures |= {f"grad of {name}": p.grad for name, p in norm.named_parameters()}
        results.append({name: value.detach().clone() for name, value in figures.items()})
    return results


@pytest.fixture(scope="module", params=[1, 2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest) -> list[list[dict[str, Tensor]]]:
    return run_ranks(request.param, train_two_steps)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_ranks_together_are_one_batch(ranks: list[list[dict[str, Tensor]]], case: int) -> None:
    shape, dtype, _, _ = CASES[case]
    expected = norm_of(case, nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)
    for step in range(2):
        x, upstream = batch_of(case, step)
        x.requires_grad_()
        expected.zero_grad()
        y = expected(x)
        y.backward(upstream)
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]

    def same(name: str, value: Tensor, joined: Tensor) -> None:
        torch.testing.assert_close(
            joined, value, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}"
        )

    for name, value in (("y", y), ("grad", x.grad), ("evaluated", expected.eval()(x))):
        same(name, value, torch.cat([result[case][name] for result in ranks]))
    for name, parameter in expected.named_parameters():
        per_rank = [result[case][f"grad of {name}"] for result in ranks]
        same(name, parameter.grad, torch.stack(per_rank).mean(0))
    for name, buffer in expected.named_buffers():
        for result in ranks:
            same(name, buffer, result[case][name])


def test_one_process_is_torch_bit_for_bit() -> None:
    x, _ = batch_of(3, 0)
    norm, expected = norm_of(3, GlobalBatchNorm), norm_of(3, nn.BatchNorm2d)
    assert torch.equal(norm(x), expected(x))
    assert torch.equal(norm.running_var, expected.running_var)
    assert norm.state_dict().keys() == expected.state_dict().keys()


def test_bfloat16_weights_meet_float32_statistics() -> None:
    x, _ = batch_of(4, 0)
    norm, expected = norm_of(4, GlobalBatchNorm), norm_of(4, nn.BatchNorm2d)
    norm.weight.data, norm.bias.data = norm.weight.data.bfloat16(), norm.bias.data.bfloat16()
    torch.testing.assert_close(norm(x).float(), expected(x.float()), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(norm.running_var, expected.running_var)
    assert norm.eval()(x).dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_b0"])
def test_a_converted_backbone_computes_the_same_and_keeps_its_names(name: str) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0).train()
    x = torch.randn(4, 3, 32, 32)
    before, names = backbone(x), list(backbone.state_dict())
    converted = convert_batchnorm(backbone, CPU)
    kinds = {type(module) for module in converted.modules() if "BatchNorm" in type(module).__name__}
    assert kinds
    assert all(issubclass(kind, GlobalBatchNorm) for kind in kinds)
    assert list(converted.state_dict()) == names
    torch.testing.assert_close(converted.train()(x), before)


def test_on_cuda_the_norms_are_torchs_synchronised_ones() -> None:
    backbone = convert_batchnorm(timm.create_model("tf_efficientnet_b0", num_classes=0), torch.device("cuda"))
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert any(hasattr(norm, "act") for norm in norms)


def test_a_norm_of_an_unknown_kind_is_refused() -> None:
    class Strange(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="Strange"):
        convert_batchnorm(nn.Sequential(Strange(3)), CPU)
