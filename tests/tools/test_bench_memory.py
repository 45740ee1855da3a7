"""`bench memory`: the formula's terms, and one rank that is measured."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from viewmill.tools.bench.memory import MIB, now_bytes, peak_bytes, reset_peak
from viewmill.tools.bench.memory_rank import Counted, Job, count
from viewmill.tools.bench.training_memory import config_of, formula, run, table

COUNTED = Counted(weights=100.0, head=20.0, activations=1000.0, views=2.0)


@pytest.mark.parametrize(
    ("stage", "world_size", "held", "peak"),
    [
        (0, 4, 300 + 2, 1020),  # weights and AdamW's two
        (1, 4, 100 + 75 + 2, 1020),  # the weights, and a share of three in float32
        (2, 4, 100 + 75 + 2, 1020),
        (3, 4, 125 + 100 + 2, 1120),  # shares of five, the bucket; the weights are gathered in a step
    ],
)
def test_the_formula_counts_what_each_stage_splits(
    stage: int, world_size: int, held: float, peak: float
) -> None:
    found = formula(COUNTED, stage, world_size, 1)
    assert found == {"held": held, "step_peak": held + peak}


def test_small_activations_leave_the_peak_to_the_update() -> None:
    small = COUNTED._replace(activations=1.0, head=1.0)
    extra = {
        stage: formula(small, stage, 1, 1)["step_peak"] - formula(small, stage, 1, 1)["held"]
        for stage in range(4)
    }
    assert extra == {0: 100, 1: 400, 2: 400, 3: 300}


def test_many_micro_batches_add_a_gradient_and_their_images() -> None:
    one, many = (formula(COUNTED, 0, 1, count)["step_peak"] for count in (1, 16))
    assert many - one == 100 + 15 * 2


def test_activations_are_counted_of_one_micro_batch() -> None:
    jobs = [
        Job(config_of("test_vit", 2, 0, 1, many).model_dump(mode="json"), (160, 160), 1) for many in (1, 8)
    ]
    one, many = map(count, jobs)
    assert one == many
    assert one.views == 2 * 2 * 3 * 160**2 * 4 / MIB
    assert 0 < one.head < one.weights
    assert one.activations > 1


def test_a_peak_can_be_counted_anew() -> None:
    held = bytearray(64 * MIB)
    held[::4096] = b"x" * (len(held) // 4096)
    high = peak_bytes()
    del held
    reset_peak()
    assert peak_bytes() <= high - 32 * MIB
    assert now_bytes() <= peak_bytes()


@pytest.mark.slow
def test_a_rank_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = run(backbone="test_vit", sizes=(160, 160), stages=(0,), world_sizes=(1,), accumulations=(1,))
    (row,) = result["rows"]
    (rank,) = row["ranks_mib"]
    assert row["vectors"] == 4
    assert rank["step_peak"] >= rank["held"] > 0
    assert str(tmp_path.parent) not in json.dumps(result)
    console = Console(file=io.StringIO(), width=200)
    console.print(table(result))
    assert "test_vit" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_single_view_is_refused() -> None:
    with pytest.raises(ValueError, match="--size 32: is one view an image"):
        run(sizes=(32,))


def test_a_step_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="2 images a step"):
        run(micro_batch=1, world_sizes=(1,))
