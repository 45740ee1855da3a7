"""`bench loss imsvd` compares with the whole matrix and counts what a rank of several computes and sends."""

import io
import json
from typing import Any

import pytest
from rich.console import Console
from viewmill.tools.bench import loss_imsvd
from viewmill.tools.bench.memory import MIB

ROWS, DIM, UNITS = 64, 609, 87  # an odd number of columns: no equal shares for two ranks


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return loss_imsvd.run(rows=ROWS, dim=DIM, units=UNITS, repeats=1, threads=1, world_sizes=(2,))


@pytest.mark.slow
def test_both_peers_are_measured_and_compute_the_same(result: dict[str, Any]) -> None:
    assert set(result["peers"]) == {"viewmill", "whole matrix"}
    assert result["largest_gradient_difference"] < 1e-5
    assert result["ratios"]["memory"] > 1


@pytest.mark.slow
def test_multiplications_and_the_joint_matrix_are_those_of_the_columns_owned(result: dict[str, Any]) -> None:
    most = (DIM + 1) // 2  # columns of the rank that owns one more
    assert result["ranks"]["2"]["flops"] == 3 * 2 * ROWS * DIM * most
    assert result["ranks"]["2"]["share_mib"] == DIM * most * 4 / MIB
    assert result["ranks"]["2"]["block_mib"] <= result["ranks"]["2"]["share_mib"]


@pytest.mark.slow
def test_bytes_sent_are_those_of_the_docstring(result: dict[str, Any]) -> None:
    assert result["ranks"]["2"]["sent_bytes"] == result["ranks"]["2"]["formula_bytes"] > 0


@pytest.mark.slow
def test_a_result_is_json_and_a_table(result: dict[str, Any]) -> None:
    assert "/tmp" not in json.dumps(result)
    console = Console(file=io.StringIO(), width=200)
    console.print(loss_imsvd.table(result))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 ranks" in shown
    assert f"{result['ranks']['2']['sent_bytes'] / MIB:.1f}" in shown


@pytest.mark.parametrize("wrong", [{"dim": 100}, {"dim": 80}, {"repeats": 0}, {"rows": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="dim must be 2 or more variables"):
        loss_imsvd.run(**wrong)


def test_rows_that_are_no_equal_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="10 rows are no equal shares of 1, 4 ranks"):
        loss_imsvd.run(rows=10, world_sizes=(1, 4))
