"""Whatever number of samples a rank has, pooled statistics are those of all samples, on every rank."""

from typing import Any

import pytest
from viewmill.methods.prior_diagnostics import jensen_gap

from tests.methods.accumulated import (
    ACCUMULATORS,
    SAMPLES,
    TEMPERATURE,
    add,
    expected_of,
    found_by,
    rows_of_all,
)
from tests.support import run_ranks

# Samples of every rank, by world size: uneven, with ranks that have none.
COUNTS = {1: [37], 2: [37, 0], 4: [5, 0, 31, 1], 8: [0, 3, 9, 1, 0, 20, 4, 0]}
EVEN = 32  # samples that all of these world sizes divide


def results_of_rank(rank: int, world_size: int) -> dict[str, Any]:
    counts = COUNTS[world_size]
    start = sum(counts[:rank])
    stop = start + counts[rank]
    results: dict[str, Any] = {}
    for name, make in ACCUMULATORS.items():
        accumulator = make()
        for first in range(start, stop, 4):
            add(accumulator, slice(first, min(first + 4, stop)))
        alone = accumulator.count
        accumulator.pool()
        pooled = accumulator.count
        found = found_by(accumulator)
        # After an update it stands for this rank alone again, and a second pool counts nobody twice.
        add(accumulator, slice(0, 0))
        again = accumulator.count
        accumulator.pool()
        results[name] = {"counts": [alone, pooled, again], "found": found, "twice": found_by(accumulator)}
    share = EVEN // world_size
    results["gap"] = list(jensen_gap(rows_of_all()[rank * share : (rank + 1) * share], TEMPERATURE))
    return results


@pytest.fixture(
    scope="module",
    params=[1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    if request.param == 1:
        return [results_of_rank(0, 1)]
    return run_ranks(request.param, results_of_rank, request.param)


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_statistics_are_those_of_all_samples(ranks: list[dict[str, Any]], name: str) -> None:
    for result in ranks:
        for key, values in expected_of(name).items():
            assert result[name]["found"][key] == pytest.approx(values, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_pooling_twice_counts_nobody_twice(ranks: list[dict[str, Any]], name: str) -> None:
    for rank, result in enumerate(ranks):
        own = COUNTS[len(ranks)][rank]
        assert result[name]["counts"] == [own, SAMPLES, own]
        assert result[name]["twice"] == result[name]["found"]


def test_jensens_gap_is_that_of_the_global_batch(ranks: list[dict[str, Any]]) -> None:
    expected = list(jensen_gap(rows_of_all()[:EVEN], TEMPERATURE))
    for result in ranks:
        assert result["gap"] == pytest.approx(expected, rel=1e-10)
