"""The table that `viewmill evaluate` prints."""

from rich.console import Console
from viewmill.tools.evaluate import summary_table

ENTRIES = [
    {
        "task": "knn@20",
        "n": 1080,
        "trained": 0.5,
        "untrained": 0.25,
        "floors": {"raw_pixels": 0.17, "histogram": 0.32},
        "standard_error": 0.01,
        "z_score": 25.0,
    },
    {"task": "linear", "n": 1080, "trained": 0.5, "untrained": 0.5, "floors": {}, "z_score": None},
]


def shown() -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary_table(ENTRIES))
    return capture.get()


def test_the_table_has_a_column_for_every_floor() -> None:
    heading = next(line for line in shown().splitlines() if "task" in line)
    assert heading.split() == ["task", "images", "trained", "untrained", "raw", "pixels", "histogram", "z"]


def test_a_line_shows_shares_in_percent_and_z() -> None:
    line = next(line for line in shown().splitlines() if "knn@20" in line)
    assert line.split() == ["knn@20", "1,080", "50.0", "%", "25.0", "%", "17.0", "%", "32.0", "%", "+25.0"]


def test_what_was_not_measured_is_a_dash() -> None:
    line = next(line for line in shown().splitlines() if "linear" in line)
    assert line.split() == ["linear", "1,080", "50.0", "%", "50.0", "%", "-", "-", "-"]
