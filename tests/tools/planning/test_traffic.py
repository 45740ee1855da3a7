"""Bytes on the wire: closed forms, and what the collectives of a step are really called with on two ranks."""

from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from viewmill.engine import deepspeed_settings
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.model import build_student
from viewmill.engine.scheduled import value_at
from viewmill.engine.step import train_step
from viewmill.engine.teacher import build_teacher
from viewmill.engine.world import World
from viewmill.engine.zero import initialize
from viewmill.tools.planning import traffic
from viewmill.tools.planning.traffic import Collective, collectives_of_step, gradient_collectives
from viewmill.tools.planning.workload import count_workload

from tests.support import run_ranks
from tests.tools.planning.plans import WORK, config

RANKS = 2
METHODS: dict[str, dict[str, Any]] = {
    "hydes": {"name": "hydes", "projector": {"layers": 2, "hidden": 16, "dim": 8}},
    "imsvd": {"name": "imsvd", "variables": 4, "units": 8, "projector": {"layers": 2, "hidden": 16}},
    "imsvd self": {
        "name": "imsvd", "variables": 4, "units": 8, "joint": "self",
        "projector": {"layers": 2, "hidden": 16},
    },
    "prior": {"name": "distill", "num_clusters": 8, "projector": {"layers": 2, "hidden": 16, "dim": 8}},
    "sinkhorn": {
        "name": "distill", "num_clusters": 8, "normalization": "sinkhorn",
        "projector": {"layers": 2, "hidden": 16, "dim": 8},
    },
    "center": {
        "name": "distill", "num_clusters": 8, "normalization": "center", "scope": "ema",
        "projector": {"layers": 2, "hidden": 16, "dim": 8},
    },
}  # fmt: skip


LIMIT = 50_000  # weights that stage 3 may hold at once, for a network that is larger
# name -> settings of stages above 0, and whether the network is larger than what may be there of it.
STAGES: dict[str, tuple[dict[str, Any], bool]] = {
    "1": ({"zero": {"stage": 1}}, False),
    "1, bf16": ({"zero": {"stage": 1}, "precision": "bf16"}, False),
    "2": ({"zero": {"stage": 2}}, False),
    "2, two micro-batches": ({"zero": {"stage": 2}, "accumulation": 2}, False),
    "3": ({"zero": {"stage": 3}}, False),
    "3, bf16": ({"zero": {"stage": 3}, "precision": "bf16"}, False),
    "3, two micro-batches": ({"zero": {"stage": 3}, "accumulation": 2}, False),
    "3, large": ({"zero": {"stage": 3}}, True),
    "3, large, two micro-batches": ({"zero": {"stage": 3}, "accumulation": 2}, True),
}


def run_config(method: str, **changes: Any) -> RunConfig:
    chosen = METHODS[method]
    tree = {
        "epochs": 1,
        "batch_size": 8,
        "device": "cpu",
        "model": {"backbone": "test_resnet"},
        "method": chosen,
        "views": {"preset": "dino_global@32" if chosen["name"] == "imsvd" else "dino@32"},
    }
    return config_from(tree | changes, where="test")


def calls_of_ranks(rank: int) -> dict[str, list[list[Any]]]:
    """name -> [kind, bytes] of every collective that one optimiser step makes: each method, each stage."""
    world = World(rank, RANKS, rank, torch.device("cpu"))
    with Recorded() as calls:  # once: DeepSpeed keeps the functions that it found first
        found = {name: calls_of_a_step(run_config(name), world, calls) for name in METHODS}
        for name, (changes, is_large) in STAGES.items():
            limits = {"stage3_max_live_parameters": LIMIT, "stage3_prefetch_bucket_size": LIMIT // 5}
            with mock.patch.dict(deepspeed_settings.STAGE_3, limits if is_large else {}):
                settings = run_config("hydes", **changes)
                # Stage 3 looks at the first steps, and gathers ahead from the second on.
                steps = 3 if settings.zero.stage == 3 else 1
                found[name] = calls_of_a_step(settings, world, calls, steps)
    return found


def calls_of_a_step(
    settings: RunConfig, world: World, calls: list[list[Any]], steps: int = 1
) -> list[list[Any]]:
    """[kind, bytes] of each collective of the last of these steps, of all that are recorded."""
    sizes, parts = count_workload(settings).sizes, settings.accumulation
    student = build_student(settings.model, settings.method, image_size=sizes[0], seed=0)
    student = convert_batchnorm(student, world.device)  # type: ignore[assignment]
    teacher = build_teacher(student, settings)
    engine = initialize(student, settings, world)
    student.train()
    values = {key: value_at(number, 0, 1) for key, number in settings.method.scheduled().items()}
    torch.manual_seed(world.rank)
    for _ in range(steps):
        views = [[torch.randn(4 // parts, 3, size, size) for size in sizes] for _ in range(parts)]
        calls.clear()
        step = train_step(engine, teacher, views, values, labels=torch.empty(0))
        # A skipped step gathers no weights at stages 1 and 2; at stage 3 all is sent before it is skipped.
        assert step.applied or settings.zero.stage == 3, settings
    return list(calls)


class Recorded:
    """Kind and bytes, as `Collective` counts them, of what torch.distributed is called for."""

    def __enter__(self) -> list[list[Any]]:
        self.calls: list[list[Any]] = []
        pick = {
            "all_reduce": ("all_reduce", "tensor", 0),
            "all_gather_into_tensor": ("all_gather", "input_tensor", 1),
            "reduce_scatter_tensor": ("reduce_scatter", "output", 0),
            "all_to_all_single": ("all_to_all", "input", 1),
        }
        self._patch = mock.patch.multiple(
            dist, **{name: self._watch(name, *how) for name, how in pick.items()}
        )
        self._patch.start()
        return self.calls

    def __exit__(self, *_: Any) -> None:
        self._patch.stop()

    def _watch(self, name: str, kind: str, keyword: str, place: int) -> Any:
        original = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            x = options[keyword] if keyword in options else arguments[place]
            self.calls.append([kind, x.numel() * x.element_size()])
            return original(*arguments, **options)

        return call


@pytest.fixture(scope="module")
def calls() -> dict[str, list[list[Any]]]:
    ranks = run_ranks(RANKS, calls_of_ranks)
    assert ranks[0] == ranks[1]
    found: dict[str, list[list[Any]]] = ranks[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_step_makes_the_collectives_that_the_plan_counts(
    method: str, calls: dict[str, list[list[Any]]]
) -> None:
    settings = run_config(method)
    planned = collectives_of_step(settings, count_workload(settings), RANKS)
    expected: Counter[tuple[str, float]] = Counter()
    for one in planned:
        if one.what != "agreement":  # the loop's, not the step's
            expected[one.kind, one.bytes] += one.times
    assert Counter((kind, size) for kind, size in calls[method]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_sends_what_the_plan_counts(
    name: str, calls: dict[str, list[list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, is_large = STAGES[name]
    if is_large:
        monkeypatch.setattr(traffic, "MAX_LIVE", LIMIT)
        monkeypatch.setattr(traffic, "PREFETCH", LIMIT // 5)
    settings = run_config("hydes", **changes)
    planned: Counter[tuple[str, float]] = Counter()
    of_weights: Counter[str] = Counter()
    for one in collectives_of_step(settings, count_workload(settings), RANKS):
        if one.what in ("gradients", "weights"):
            of_weights[one.kind] += round(one.times * one.bytes)
        elif one.what != "agreement" and one.bytes > 8:
            planned[one.kind, one.bytes] += one.times
    made = Counter((kind, size) for kind, size in calls[name] if size > 8)  # DeepSpeed's own single numbers
    assert not planned - made
    rest: Counter[str] = Counter()
    for (kind, size), times in (made - planned).items():
        rest[kind] += size * times
    assert set(rest) == set(of_weights)
    for kind, size in of_weights.items():
        # Where weights are let go, what lies between two uses may be gathered once or twice.
        assert rest[kind] == pytest.approx(size, rel=0.03 if is_large else 1e-9), kind


@pytest.mark.parametrize(
    ("stage", "numbers"),
    # Whole sums are 2 P numbers, gathered weights one more; at stage 3 half a sum, and the weights once.
    [(0, 2), (1, 3), (2, 3), (3, 2)],
)
def test_each_stage_sends_so_many_numbers_a_weight(stage: int, numbers: int) -> None:
    ranks = 8
    found = gradient_collectives(config(zero={"stage": stage}), WORK, ranks)
    sent = sum(one.sent(ranks) for one in found)
    assert sent == pytest.approx(numbers * 4 * WORK.weights * (ranks - 1) / ranks)


def test_a_large_network_is_sent_in_buckets_and_gathered_for_each_forward() -> None:
    large = WORK._replace(weights=120_000_000)
    for stage, times in ((0, [1]), (1, [3, 1]), (3, [3, 12 * 2 * 2])):
        found = gradient_collectives(config(zero={"stage": stage}), large, 8)
        assert [one.times for one in found] == times
    sums = gradient_collectives(config(zero={"stage": 2}), large, 8)[0]
    assert sums.bytes * sums.times == 4 * large.weights


def test_half_types_halve_the_weights_and_not_the_gradients() -> None:
    single, half = (
        {
            one.what: one.sent(8)
            for one in gradient_collectives(config(precision=precision, zero={"stage": 2}), WORK, 8)
        }
        for precision in ("fp32", "bf16")
    )
    assert half["gradients"] == single["gradients"]
    assert half["weights"] == single["weights"] / 2


def test_one_rank_sends_nothing() -> None:
    assert collectives_of_step(config(), WORK, 1) == []


def test_rings_send_what_everybody_knows() -> None:
    assert Collective("x", "all_reduce", 100.0, 1).sent(4) == 150.0
    assert Collective("x", "all_gather", 100.0, 2).sent(4) == 600.0
    assert Collective("x", "reduce_scatter", 25.0, 1).sent(4) == 75.0
    assert Collective("x", "all_to_all", 100.0, 1).sent(4) == 75.0
