"""The bar of a training: all of its figures on one line of the terminal, however narrow."""

import io

import pytest
from rich.console import Console
from viewmill.engine.progress import TrainingProgress


def shown(width: int, *, is_terminal: bool) -> str:
    """What a run of 1,234 steps leaves after its last."""
    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=is_terminal, color_system=None)
    with TrainingProgress(1234, 1233, is_shown=True, console=console) as progress:
        progress.figures(loss=5.12345, images_per_s=1234.4, data_wait_fraction=0.05)
        progress.advance()
    return target.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_bar_shows_every_figure_on_one_line(width: int) -> None:
    found = shown(width, is_terminal=True)
    last = found.rpartition("\x1b[2K")[2].splitlines()[0]  # as it was drawn anew
    for part in ("1234/1234", "loss 5.1235", "1234 images/s", "wait 5 %", "eta 0:00:00"):
        assert part in last, found
    assert ("train" in last) == (width >= 100)


def test_a_file_gets_a_line_whatever_its_width() -> None:
    [line] = shown(60, is_terminal=False).splitlines()
    assert line == "step 1234/1234  loss 5.1235  1234 images/s  data wait 5 %  eta 0:00:00"
