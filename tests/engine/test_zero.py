"""ZeRO behind one class: what DeepSpeed is told, and what a step does at every stage."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from viewmill.engine.checkpoints.checkpoint import Checkpoint, restore
from viewmill.engine.deepspeed_settings import STAGE_3, deepspeed_config
from viewmill.engine.optimizers import Rates, build_optimizer, first_rates, set_rates
from viewmill.engine.world import World, start_world, stop_world
from viewmill.engine.zero import initialize

from tests.engine.small_training import (
    STAGES,
    engine_of,
    equal,
    images,
    network,
    save,
    settings,
    train,
    weights_of,
)
from tests.engine.two_ranks import LARS, after_lars, held, without_norms


def test_micro_batches_are_not_told_to_deepspeed_which_would_divide_by_them() -> None:
    told = deepspeed_config(settings(batch_size=48, accumulation=3), world_size=4)
    sizes = (told["train_micro_batch_size_per_gpu"], told["gradient_accumulation_steps"])
    assert (told["train_batch_size"], *sizes) == (48, 12, 1)


def test_a_batch_that_the_ranks_do_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="batch_size 8 is not a multiple of 1 micro-batches x 3 ranks"):
        deepspeed_config(settings(), world_size=3)


def test_no_default_of_deepspeed_that_changes_numbers_is_left_open() -> None:
    told = deepspeed_config(settings(stage=2), world_size=1)
    assert told["gradient_clipping"] == 0.0
    assert told["zero_optimization"]["memory_efficient_linear"] is False
    assert told["zero_optimization"]["contiguous_gradients"] is True
    assert not {"fp16", "bf16"} & told.keys()


def test_stage_3_splits_every_weight_and_never_gathers_a_large_model_whole() -> None:
    told = deepspeed_config(settings(stage=3), world_size=1)
    split = told["zero_optimization"]
    assert split["stage3_param_persistence_threshold"] == 0
    assert split["stage3_max_live_parameters"] <= 50_000_000
    assert told["data_types"]["grad_accum_dtype"] == "fp32"


def test_bf16_sums_gradients_over_ranks_in_float32() -> None:
    told = deepspeed_config(settings(precision="bf16"), world_size=1)
    assert told["bf16"]["enabled"] is True
    assert told["communication_data_type"] == "fp32"


def test_biases_and_norms_do_not_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimizer = build_optimizer(module, settings().optimizer)
    set_rates(optimizer, first_rates(settings().optimizer))
    decay = {
        id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]
    }
    found = {name: decay[id(weight)] for name, weight in module.named_parameters()}
    rate = settings().optimizer.weight_decay
    assert found == {"0.weight": rate, "0.bias": 0, "1.weight": 0, "1.bias": 0, "2.weight": rate, "2.bias": 0}


def test_initialize_without_a_process_group_says_what_to_call() -> None:
    alone = World(0, 1, 0, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="call start_world before initialize"):
        initialize(network(), settings(), alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_torchs_adamw(world: World, stage: int) -> None:
    engine, plain = engine_of(world, stage), network()
    optimizer = build_optimizer(plain, settings().optimizer)
    set_rates(optimizer, first_rates(settings().optimizer))
    for step in range(4):
        optimizer.zero_grad()
        plain(images(step)).square().mean().backward()
        optimizer.step()
    train(engine, range(4))
    assert equal(weights_of(engine), dict(plain.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_non_finite_gradient_changes_nothing(world: World, stage: int, precision: str) -> None:
    engine = engine_of(world, stage, without_norms(), precision=precision)
    train(engine, range(2))
    before = held(engine)
    _, applied = train(engine, range(2, 3), spoil=2)
    assert applied == [False]
    assert equal(held(engine), before)
    assert engine.grad_norm() == math.inf
    assert train(engine, range(3, 4))[1] == [True]
    assert not equal(held(engine), before)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_bad_on_one_rank_is_skipped_by_all(
    ranks: list[dict[str, Any]], stage: int
) -> None:
    for precision in ("", "bf16 ", "fp16 "):
        for rank in ranks:
            seen = rank["skip"][f"{precision}{stage}" if precision else stage]
            assert seen["applied"] == [False, True]
            assert seen["unmoved"]
            assert seen["finite"]


@pytest.mark.slow
def test_the_gradient_norm_is_the_same_at_every_stage_and_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    norms = [rank["skip"][stage]["norms"] for rank in ranks for stage in STAGES]
    for before, skipped in norms:
        assert before == pytest.approx(norms[0][0], rel=1e-6)  # float32 sums in another order
        assert skipped == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_norm_is_of_the_gradient_before_clipping(world: World, stage: int) -> None:
    free, clipped = (
        engine_of(world, stage, optimizer={"lr": 1e-2, "clip_grad_norm": clip}) for clip in (0.0, 1e-3)
    )
    train(free, range(1))
    train(clipped, range(1))
    assert clipped.grad_norm() == pytest.approx(free.grad_norm(), rel=1e-6)
    assert free.grad_norm() > 1e-3


@pytest.mark.slow
def test_no_norm_before_the_first_step(world: World) -> None:
    assert engine_of(world, 0).grad_norm() is None


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_learning_rate_is_the_one_that_was_set(world: World, stage: int) -> None:
    engine = engine_of(world, stage)
    before = weights_of(engine)
    engine.set_rates(Rates(0.0, 0.1, None))
    train(engine, range(1))
    parameters = [name for name, _ in engine.module.named_parameters()]
    assert all(torch.equal(before[name], weights_of(engine)[name]) for name in parameters)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_accumulated_micro_batches_make_one_step(world: World, stage: int, precision: str) -> None:
    told = {"precision": precision, "optimizer": {"name": "sgd", "lr": 1e-2}}
    whole, quarters = (engine_of(world, stage, without_norms(), **told) for _ in range(2))
    start = held(whole)
    for step in range(2):
        train(whole, range(step, step + 1))
        *first, last = images(step).to(next(quarters.module.parameters()).dtype).chunk(4)
        for quarter in first:
            outputs = quarters.forward_aside(quarter)
            quarters.accumulate(outputs, outputs.detach() * 2 / (4 * outputs.numel()))
        quarters.backward(quarters(last).float().square().mean() / 4)
        assert quarters.step()
    # bfloat16 keeps 8 bits: each of the whole batch's gradients is rounded too.
    bound = 1e-5 if precision == "fp32" else 2**-6
    assert quarters.grad_norm() == pytest.approx(whole.grad_norm(), rel=bound)
    for name, value in held(whole).items():
        if name.startswith("weight"):
            moved, expected = held(quarters)[name] - start[name], value - start[name]
            assert (moved - expected).norm() <= bound * expected.norm(), name


@pytest.mark.slow
def test_bf16_starts_every_stage_from_the_same_float32_weights(world: World) -> None:
    engines = [engine_of(world, stage, without_norms(), precision="bf16") for stage in STAGES]
    whole = [
        torch.cat(
            [held(engine)[f"weight {name}"].reshape(-1) for name, _ in engine.module.named_parameters()]
        )
        for engine in engines
    ]
    assert all(torch.equal(weights, whole[0]) for weights in whole)


@pytest.mark.slow
def test_buffers_are_rank_zeros_after_initialize(ranks: list[dict[str, Any]]) -> None:
    assert [rank["buffers"] for rank in ranks] == [0.0, 0.0]


@pytest.mark.slow
def test_at_stage_3_the_module_is_empty_between_two_forwards(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["shells"] == {"0.weight": (0, 68), "4.weight": (0, 280), "5.weight": (0, 25)}


@pytest.mark.slow
def test_a_forward_at_stage_3_has_the_weights_of_one_layer_where_nothing_is_gathered_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGE_3, "stage3_prefetch_bucket_size", 0)
    module, there = nn.Sequential(nn.Flatten(), *[nn.Linear(108, 108) for _ in range(5)]), []
    for layer in module[1:]:
        # Before DeepSpeed's own hooks, which let the weights go.
        layer.register_forward_hook(lambda *_: there.append(sum(w.numel() for w in module.parameters())))
    train(engine_of(world, 3, module), range(3))
    assert there == [108 * 108 + 108] * 15


class SometimesDeeper(nn.Module):
    """A second layer that it can do without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(108, 4), nn.Linear(4, 4)
        self.is_deep = True

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        y = self.first(views.flatten(1))
        return self.second(y) if self.is_deep else y


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_weight_that_a_step_does_not_use_stays(world: World, stage: int) -> None:
    told = {"name": "sgd", "lr": 1e-2, "momentum": 0.0, "weight_decay": 0.0}
    engine = engine_of(world, stage, SometimesDeeper(), optimizer=told)
    train(engine, range(2))
    before, engine.module.is_deep = weights_of(engine), False
    train(engine, range(2, 4))
    moved = {name for name, weight in weights_of(engine).items() if not weight.equal(before[name])}
    assert moved == {"first.weight", "first.bias"}


@pytest.mark.slow
def test_weights_in_channels_last_are_taken(world: World) -> None:
    module = network().to(memory_format=torch.channels_last)
    engine = engine_of(world, 2, module)
    assert train(engine, range(1)) == train(engine_of(world, 2), range(1))


@pytest.mark.slow
def test_training_again_in_the_same_process_works(world: World) -> None:
    first = train(engine_of(world, 1), range(2))
    stop_world(world)
    again = start_world("cpu")
    try:
        assert train(engine_of(again, 1), range(2)) == first
    finally:
        stop_world(again)
        start_world("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_sgd_is_torchs_own_with_momentum_from_the_first_step(world: World, stage: int) -> None:
    told = {"name": "sgd", "lr": 1e-2, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}
    engine = engine_of(world, stage, without_norms(), optimizer=told)
    plain = without_norms()
    weights = [weight for weight in plain.parameters() if weight.requires_grad]
    decayed = [{"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.1}]
    decayed.append({"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0})
    optimizer = torch.optim.SGD(decayed, lr=1e-2, momentum=0.8, nesterov=True)
    for step in range(4):
        optimizer.zero_grad()
        plain(images(step)).square().mean().backward()
        optimizer.step()
    train(engine, range(4))
    for name, ours in weights_of(engine).items():
        torch.testing.assert_close(ours, plain.state_dict()[name], rtol=1e-5, atol=1e-7)


def lars_alone() -> dict[str, torch.Tensor]:
    """Four steps of LARS over whole batches and whole parameters, without DeepSpeed."""
    module, config = without_norms(), settings(optimizer=LARS).optimizer
    optimizer = build_optimizer(module, config)
    set_rates(optimizer, first_rates(config))
    for step in range(4):
        optimizer.zero_grad()
        module(images(step)).square().mean().backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in module.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_lars_on_one_and_two_ranks_is_lars_of_whole_parameters(
    world: World, ranks: list[dict[str, Any]], stage: int
) -> None:
    expected = lars_alone()
    assert not torch.equal(expected["0.weight"], without_norms().state_dict()["0.weight"])
    for found in (after_lars(world, stage), ranks[0]["lars"][stage], ranks[1]["lars"][stage]):
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6 * float(weight.norm()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "lars"])
@pytest.mark.parametrize(("old", "new"), [(2, 0), (0, 1)])
def test_momentum_is_restored_at_another_stage(
    world: World, tmp_path: Path, name: str, old: int, new: int
) -> None:
    told = {"name": name, "lr": 1e-2 if name == "sgd" else 1.0}
    before, after = (engine_of(world, stage, without_norms(), optimizer=told) for stage in (old, new))
    train(before, range(3))
    restore(after, Checkpoint.open(save(before, tmp_path, 3)))
    expected, _ = train(before, range(3, 6))
    assert train(after, range(3, 6))[0] == pytest.approx(expected, rel=1e-6)
    assert Checkpoint.open(tmp_path / "step_00000003").manifest.kinds == {"momentum_buffer": "elementwise"}
