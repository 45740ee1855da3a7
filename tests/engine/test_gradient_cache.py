"""Gradient caching: micro-batches leave the gradients of the large batch, with the activations of one."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from viewmill.engine.gradient_cache import GradientCache, random_states
from viewmill.engine.step_buffers import StepBuffers
from viewmill.engine.world import World, start_world, stop_world

from tests.engine.large_batch import (
    METHODS,
    SPLITS,
    assert_same_training,
    large_batch_gradients,
    large_batch_run,
    largest_difference,
    micro_batch_run,
    own_gradients,
    plain_engine,
    settings,
    student_of,
)

ALONE = World(0, 1, 0, torch.device("cpu"))


class Toy(nn.Module):
    """(n, 3) images to (1, n, 4) embeddings, through what differs from forward to forward."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), *layers, nn.Linear(8, 4))
        self.unused = nn.Parameter(torch.zeros(2))
        self.said: list[Tensor] = []

    def forward(self, views: list[Tensor]) -> Tensor:
        self.said.append(self.layers(views[0])[None])
        return self.said[-1]


def micro_batches(count: int, size: int = 5) -> list[list[Tensor]]:
    images = torch.randn(count, size, 3, generator=torch.Generator().manual_seed(0))
    return [[part] for part in images]


def cached_step(module: nn.Module, parts: list[list[Tensor]]) -> Any:
    """One backward of a loss that does not split; the engine."""
    engine = plain_engine(module, ALONE)
    cache = GradientCache(engine, parts)
    z = cache.embed().requires_grad_()
    (pull,) = torch.autograd.grad((z[0] @ z[0].T).tanh().sum(), z)
    cache.backward(pull)
    return engine


@pytest.mark.parametrize("accumulation", [1, 2, 4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradients_are_those_of_the_large_batch_in_float64(method: str, accumulation: int) -> None:
    expected = large_batch_gradients(method, rank=0, world_size=1)
    assert largest_difference(own_gradients(method, ALONE, accumulation), expected) <= 1e-14


@pytest.mark.parametrize("count", [1, 2, 5])
def test_deepspeed_sees_one_backward_a_step(count: int) -> None:
    assert cached_step(Toy(), micro_batches(count))._deepspeed.backwards == 1


def test_a_replay_draws_the_random_numbers_of_the_first_forward() -> None:
    toy, plain = Toy(nn.Dropout(0.5)), Toy(nn.Dropout(0.5))
    torch.manual_seed(1)
    for views in micro_batches(3):
        plain(views)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    cached_step(toy, micro_batches(3))
    assert [len(plain.said), len(toy.said)] == [3, 5]  # the last keeps its graph
    expected = [*plain.said, plain.said[0], plain.said[1]]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(toy.said, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), after)


def test_one_micro_batch_leaves_random_numbers_and_buffers_alone() -> None:
    toy, plain = (Toy(nn.BatchNorm1d(8), nn.Dropout(0.5)) for _ in range(2))
    (views,) = micro_batches(1)
    torch.manual_seed(1)
    plain(views)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    cached_step(toy, [views])
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(*pair) for pair in zip(toy.buffers(), plain.buffers(), strict=True))


def test_running_statistics_move_once_a_step_by_the_mean_of_the_forwards() -> None:
    toy = Toy(nn.BatchNorm1d(8, momentum=0.1))
    norm, parts = toy.layers[1], micro_batches(4)
    with torch.no_grad():
        hidden = [toy.layers[0](views[0]) for views in parts]
    mean = torch.stack([rows.mean(dim=0) for rows in hidden]).mean(dim=0)
    variance = torch.stack([rows.var(dim=0) for rows in hidden]).mean(dim=0)
    cached_step(toy, parts)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance)
    assert norm.num_batches_tracked == 1


def test_buffers_that_no_forward_changes_keep_their_bits() -> None:
    module = nn.Module()
    module.register_buffer("odd", torch.tensor([0.1, 1e-30, 3e30]))
    before, buffers = module.odd.clone(), StepBuffers(module, 7)
    for _ in range(7):
        buffers.begin()
        buffers.end()
    buffers.settle()
    assert torch.equal(module.odd, before)


def test_a_weight_without_use_has_no_gradient_and_a_shared_gradient_counts_for_each() -> None:
    class Sum(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Identity()
            self.left, self.right = nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(5, 3))

        def forward(self, views: list[Tensor]) -> Tensor:
            return (views[0] + (self.left + self.right))[None]

    module = Sum()
    cache = GradientCache(plain_engine(module, ALONE), micro_batches(4))
    cache.backward(torch.ones_like(cache.embed()))
    assert module.unused.grad is None
    assert torch.equal(module.left.grad, torch.full((5, 3), 4.0))
    assert torch.equal(module.right.grad, torch.full((5, 3), 4.0))


def test_small_gradients_of_bf16_are_not_lost_in_their_sum() -> None:
    module = nn.Linear(1, 1, bias=False).bfloat16()
    engine, one = plain_engine(module, ALONE), torch.ones(1, 1, dtype=torch.bfloat16)
    engine.accumulate(module(one), one)
    for _ in range(255):  # 1 + 2^-9 is 1 in bfloat16
        engine.accumulate(module(one), one * 2**-9)
    engine.backward((module(one) * 2**-9).sum())
    assert module.weight.grad.item() == 1.5


class LiveTensors:
    """Bytes that autograd keeps of forwards for their backwards, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Any:
        class Kept:
            value = tensor.detach() if tensor.is_leaf else tensor

        held, size = Kept(), tensor.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self.free, size)
        return held

    def free(self, size: int) -> None:
        self.now -= size

    def watch(self, module: nn.Module) -> None:
        forward = module.forward

        def watched(*inputs: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held.value):
                return forward(*inputs)

        module.forward = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("method", ["hydes", "imsvd"])
def test_activations_stay_those_of_one_micro_batch_while_the_batch_grows_16_times(method: str) -> None:
    most = []
    for count in (1, 16):
        student, live = student_of(settings(method)), LiveTensors()
        live.watch(student)
        images = torch.randn(count, 2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        cache = GradientCache(plain_engine(student, ALONE), [list(part) for part in images])
        z = cache.embed()
        cache.backward(torch.ones_like(z))
        assert z.shape[1] == 2 * count
        assert live.now == 0
        most.append(live.most)
    assert most[1] == most[0] > 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    world = start_world("cpu")
    yield world
    stop_world(world)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_stage_and_accumulation_trains_as_the_large_batch(world: World, method: str) -> None:
    expected = large_batch_run(method)
    for stage, accumulation in SPLITS:
        found = micro_batch_run(method, world, stage=stage, accumulation=accumulation)
        assert_same_training(found, expected)


@pytest.mark.soak
@pytest.mark.parametrize("method", ["hydes", "imsvd", "distill"])
def test_fifty_steps_of_adamw_give_one_loss_curve_for_every_accumulation(world: World, method: str) -> None:
    adamw: dict[str, Any] = {"steps": 50, "optimizer": {"lr": 1e-4}}
    expected = micro_batch_run(method, world, stage=0, accumulation=1, **adamw)
    for stage, accumulation in ((0, 2), (1, 4), (2, 4)):
        found = micro_batch_run(method, world, stage=stage, accumulation=accumulation, **adamw)
        assert found["losses"] == pytest.approx(expected["losses"], rel=0, abs=5e-6)  # nats
        # AdamW moves weights whose gradient is all rounding.
        assert largest_difference(found["moved"], expected["moved"]) <= 2e-3


def test_the_states_of_the_generators_are_copies() -> None:
    before = random_states(torch.device("cpu"))
    torch.rand(1)
    assert not torch.equal(before[0], random_states(torch.device("cpu"))[0])
