"""Whose fault it is that the ranks wait."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.stragglers import straggler_table, write_stragglers


def line(step: int, step_s: float, data: list[float], ranks: list[float]) -> dict[str, Any]:
    size = len(data)
    return {"step": step, "step_s": [step_s] * size, "data_wait_fraction": data, "rank_wait_fraction": ranks}


SLOW_READER = [line(10, 2.0, [0.1, 0.6], [0.5, 0.0]), line(20, 1.0, [0.0, 0.4], [0.4, 0.0])]


def test_the_straggler_is_the_one_that_waits_least_for_the_others() -> None:
    table = straggler_table(SLOW_READER)
    assert (table["straggler"], table["first_step"], table["last_step"]) == (1, 1, 20)
    assert table["waited_s"] == pytest.approx(10 * 2.0 * 0.5 + 10 * 1.0 * 0.4)


def test_the_parts_of_a_ranks_time_are_all_of_it() -> None:
    for rank in straggler_table(SLOW_READER)["ranks"]:
        assert rank["total_s"] == pytest.approx(30.0)
        parts = rank["data_wait_s"] + rank["compute_s"] + rank["communication_s"]
        assert parts == pytest.approx(rank["total_s"])
        shares = rank["data_wait_fraction"] + rank["compute_fraction"] + rank["communication_fraction"]
        assert shares == pytest.approx(1.0, abs=2e-4)  # each is rounded


def test_only_the_lines_of_the_last_number_of_ranks_count() -> None:
    table = straggler_table([*SLOW_READER, line(30, 1.0, [0.0], [0.0])])
    assert (table["first_step"], len(table["ranks"]), table["waited_s"]) == (21, 1, 0.0)


def test_without_lines_there_is_no_table(tmp_path: Path) -> None:
    write_stragglers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_file_holds_the_table_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "ranks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in SLOW_READER))
    write_stragglers(tmp_path)
    assert json.loads((tmp_path / "stragglers.json").read_text()) == straggler_table(SLOW_READER)
