"""What is said of older GPUs."""

import io

import pytest
import torch
from rich.console import Console
from viewmill.engine.hardware import capability_of, old_gpu_notice
from viewmill.engine.progress import TrainingProgress
from viewmill.methods.kernel_sums import LEAST_CAPABILITY


@pytest.mark.parametrize("capability", [None, LEAST_CAPABILITY, (8, 6), (9, 0), (12, 0)])
def test_nothing_is_said_where_there_is_nothing_to_say(capability: tuple[int, int] | None) -> None:
    assert old_gpu_notice(capability, "bf16") is None


def test_an_older_gpu_is_told_what_serves_it() -> None:
    plain = old_gpu_notice((7, 0), "fp32")
    assert plain is not None
    assert "compute capability 7.0, below 8.0" in plain
    assert "blockwise torch instead of the Triton kernels" in plain
    assert "bf16 would be without hardware" in plain
    chosen = old_gpu_notice((7, 5), "bf16")
    assert chosen is not None
    assert "precision=bf16 is without hardware" in chosen
    assert "\n" not in plain + chosen


@pytest.mark.parametrize(("capability", "best"), [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16")])
def test_a_gpu_with_tensor_cores_for_float16_alone_is_told_so(capability: tuple[int, int], best: str) -> None:
    assert f"precision={best} is the" in str(old_gpu_notice(capability, "fp32"))


def test_a_cpu_has_no_compute_capability() -> None:
    assert capability_of(torch.device("cpu")) is None


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_notice_is_one_line_of_rank_zero_alone(is_shown: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=40)
    TrainingProgress(3, 0, is_shown=is_shown, console=console).tell("word " * 30)
    assert shown.getvalue() == ("word " * 30 + "\n" if is_shown else "")
