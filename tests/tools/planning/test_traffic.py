"""Bytes on the wire: closed forms, and what the collectives of a step are really called with on two ranks."""

from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.model import build_student
from viewmill.engine.scheduled import value_at
from viewmill.engine.step import train_step
from viewmill.engine.teacher import build_teacher
from viewmill.engine.world import World
from viewmill.engine.zero import initialize
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


def run_config(method: str) -> RunConfig:
    chosen = METHODS[method]
    tree = {
        "epochs": 1,
        "batch_size": 8,
        "device": "cpu",
        "model": {"backbone": "test_resnet"},
        "method": chosen,
        "views": {"preset": "dino_global@32" if chosen["name"] == "imsvd" else "dino@32"},
    }
    return config_from(tree, where="test")


def calls_of_a_step(rank: int) -> dict[str, list[list[Any]]]:
    """method -> [kind, bytes] of every collective that one optimiser step makes at stage 0."""
    world = World(rank, RANKS, rank, torch.device("cpu"))
    found = {}
    for name in METHODS:
        settings = run_config(name)
        sizes = count_workload(settings).sizes
        student = build_student(settings.model, settings.method, image_size=sizes[0], seed=0)
        student = convert_batchnorm(student, world.device)  # type: ignore[assignment]
        teacher = build_teacher(student, settings)
        engine = initialize(student, settings, world)
        student.train()
        values = {key: value_at(number, 0, 1) for key, number in settings.method.scheduled().items()}
        views = [torch.randn(4, 3, size, size) for size in sizes]
        with Recorded() as calls:
            assert train_step(engine, teacher, [views], values, labels=torch.empty(0)).applied
        found[name] = calls
    return found


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
    ranks = run_ranks(RANKS, calls_of_a_step)
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


@pytest.mark.parametrize(
    ("stage", "numbers"),
    # Rajbhandari et al. 2020: 2 P numbers at stages 0 to 2, 3 P at stage 3 with one size of views.
    [(0, 2), (1, 2), (2, 2), (3, 3)],
)
def test_each_stage_sends_what_zero_says(stage: int, numbers: int) -> None:
    work, ranks = WORK._replace(sizes=(32, 32)), 8
    found = gradient_collectives(config(zero={"stage": stage}), work, ranks)
    sent = sum(one.sent(ranks) for one in found)
    assert sent == pytest.approx(numbers * 4 * work.weights * (ranks - 1) / ranks)


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
