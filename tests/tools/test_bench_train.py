"""`bench train` at the smallest size: what is compared, and how the overheads are made of it."""

from pathlib import Path

import pytest
from rich.console import Console
from viewmill.tools.bench.result import read_result
from viewmill.tools.bench.train import figures, run, table
from viewmill.tools.bench.train_peers import Round, Spent
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.engine.tiny import tiny_data_set

SMALL = {"backbone": "test_resnet", "preset": "hydes@32", "batch-size": 4, "threads": 1}
SETTINGS = ["views.executor=reference", "method.projector.hidden=32", "method.projector.dim=16"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hydes", "distill"])
def test_a_run_and_bare_steps_take_turns_and_the_figures_are_kept(tmp_path: Path, method: str) -> None:
    data, out = tiny_data_set(tmp_path, count=9), tmp_path / "train.json"
    options = SMALL | {"data": data, "method": method, "out": out, "steps": 4, "block": 2, "repeats": 2}
    words = [f"--{name}={value}" for name, value in options.items()]
    assert run_app(app, ["bench", "train", *words, *(f"--set={setting}" for setting in SETTINGS)]) == 0
    kept, console = read_result(out), Console(width=200)
    result = {**kept.settings, "settings": kept.settings, **kept.figures}
    with console.capture() as capture:
        console.print(table(result))
    for text in ("overhead: wall without data wait", "views alone", "a checkpoint behind training"):
        assert text in capture.get()
    assert result["settings"]["max_steps"] == 2 + 2 * 4  # half a round to warm up
    assert str(tmp_path) not in out.read_text()
    for name in ("loop", "bare"):
        assert result["peers"][name]["wall_ms"] > 0
        assert result["peers"][name]["cpu_ms"] > 0
    assert result["peers"]["views alone"]["cpu_ms"] > 0
    # Behind the training at steps 4 and 8, waited for at 6 and, as every run does, at the end.
    assert all(len(stalls["s_range"]) == 2 for stalls in result["checkpoint_stalled_s"].values())


def test_overheads_are_ratios_of_medians_with_the_rounds_as_their_range() -> None:
    rounds = [
        Round(Spent(1.10, 2.0, 0.05), Spent(1.0, 1.6, 0.0), 0.2),
        Round(Spent(1.20, 2.2, 0.15), Spent(1.0, 1.6, 0.0), 0.2),
        Round(Spent(1.50, 2.4, 0.10), Spent(1.25, 2.0, 0.0), 0.2),
    ]
    found = figures(rounds)["overhead"]
    assert found["wall"]["share"] == pytest.approx(0.2)
    assert found["wall"]["range"] == pytest.approx([0.1, 0.2])
    assert found["wall without data wait"]["share"] == pytest.approx(0.1)  # 1.2 - 0.1
    assert found["processor"]["share"] == pytest.approx(0.375)
    assert found["processor without views"]["share"] == pytest.approx(0.25)


def test_a_round_that_is_no_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="10 steps in blocks of 4"):
        run("DATASET", steps=10, block=4)
