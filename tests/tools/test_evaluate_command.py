"""The table that `viewmill evaluate` prints."""

from rich.console import Console
from rich.table import Table
from viewmill.tools.evaluate import measures_table, summary_table

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


def shown(table: Table | None = None) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table or summary_table(ENTRIES))
    return capture.get()


def test_the_table_has_a_column_for_every_floor() -> None:
    heading = next(line for line in shown().splitlines() if "task" in line)
    assert heading.split() == ["task", "images", "trained", "untrained", "raw", "pixels", "histogram", "z"]


def test_a_line_shows_shares_in_percent_and_z() -> None:
    line = next(line for line in shown().splitlines() if "knn@20" in line)
    assert line.split() == ["knn@20", "1,080", "50.0", "%", "25.0", "%", "17.0", "%", "32.0", "%", "+25.0"]


def test_a_long_task_stays_whole_in_a_narrow_terminal() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(summary_table([{**ENTRIES[0], "task": "crops@places205"}]))
    assert "crops@places205" in capture.get()


def test_what_was_not_measured_is_a_dash() -> None:
    line = next(line for line in shown().splitlines() if "linear" in line)
    assert line.split() == ["linear", "1,080", "50.0", "%", "50.0", "%", "-", "-", "-"]


def test_figures_stand_in_a_table_of_their_own() -> None:
    measures = {
        "center_norm": {"trained": 0.37, "untrained": 0.53},
        "embedding_rank": {"trained": 1103.2, "untrained": None},
    }
    lines = shown(measures_table({"task": "geometry", "n": 1500, "measures": measures})).splitlines()
    assert lines[0].split() == ["geometry,", "1,500", "images"]
    assert [" ".join(line.split()) for line in lines if "norm" in line or "rank" in line] == [
        "center norm 0.37 0.53",
        "embedding rank 1,103 –",
    ]
