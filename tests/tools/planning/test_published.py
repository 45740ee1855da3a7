"""Predictions of published runs: no constant comes from them, and misses are told."""

from typing import Any

import pytest
from viewmill.tools.bench.goals import PLAN, PLAN_LOADERS
from viewmill.tools.planning.published import LOADERS, ROWS, compare, paper_config, with_head

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return compare()


def test_every_published_row_is_predicted_and_its_error_is_told(rows: Rows) -> None:
    assert [row["name"] for row in rows] == [row.name for row in ROWS]
    assert tuple(LOADERS) == PLAN_LOADERS
    for row in rows:
        for loader in PLAN_LOADERS:
            assert row[loader]["error"] == row[loader]["hours"] / row["hours"] - 1
            assert row[loader]["binding"] in row[loader]["seconds"]


def test_the_runs_are_predicted_within_the_goal_and_lie_between_the_bounds(rows: Rows) -> None:
    for row in rows:
        said = row["ffcv_ssl"]
        assert abs(said["error"]) < PLAN["published"], row["name"]
        least, most = said["bounds"]
        assert 0.9 * least < row["hours"] < 1.1 * most, row["name"]


def test_a_head_counts_what_its_layers_multiply() -> None:
    _, base = paper_config()
    own = next(row for row in ROWS if row.name == "IMSVD")
    counted = with_head(base, own)
    assert counted.matmul_flops == base.matmul_flops
    deeper = with_head(base, next(row for row in ROWS if row.name == "IMSVD, 3 layers"))
    assert deeper.weights - counted.weights == 8192 * 8192
    assert deeper.matmul_flops - counted.matmul_flops == 2 * 2 * 8192 * 8192
