"""Checkpoint intervals in closed form, and the simulation that agrees with them and loses no second."""

import math

import pytest
from viewmill.tools.planning.failures import (
    DAY,
    LOGBOOKS,
    Checkpointing,
    best_interval,
    daly,
    expected_wall_s,
    mean_time_between_failures,
    young,
)
from viewmill.tools.planning.simulation import KINDS, MOST_EVENTS, Job, expected_goodput, simulate

from tests.tools.planning.plans import cluster

HOUR = 3600.0


def failing(per_node_day: float, *, restart_s: float = 0.0, slow: float = 0.0, hiccups: float = 0.0) -> Job:
    own = cluster(nodes=1)
    reliability = own.reliability.model_copy(
        update={
            "failures_per_node_day": per_node_day,
            "restart_s": restart_s,
            "slow_per_node_day": slow,
            "hiccups_per_day": hiccups,
        }
    )
    changed = own.model_copy(update={"reliability": reliability})
    return Job(200 * HOUR, HOUR, Checkpointing(60.0), changed)


@pytest.mark.parametrize("ratio", [1e-3, 1e-5, 1e-7])
def test_young_daly_and_the_exact_optimum_meet_where_checkpoints_are_cheap(ratio: float) -> None:
    mtbf = 1e6
    stall = ratio * mtbf
    exact = best_interval(stall, mtbf, work_s=1e9)
    assert daly(stall, mtbf) == pytest.approx(exact, rel=ratio)
    # Young's is the first term: it is off by the share sqrt(C / 2M) of itself, to first order.
    assert young(stall, mtbf) == pytest.approx(exact, rel=math.sqrt(ratio))


def test_daly_gives_up_where_a_checkpoint_takes_longer_than_two_failures() -> None:
    assert daly(3.0, 1.0) == 1.0


def test_the_exact_optimum_is_one() -> None:
    mtbf = 6 * HOUR
    best = best_interval(120.0, mtbf, work_s=1e7)
    at = [expected_wall_s(1e7, share * best, 120.0, 300.0, mtbf) for share in (0.99, 1.0, 1.01)]
    assert at[1] == min(at)


def test_the_rate_of_a_job_is_the_sum_of_its_nodes() -> None:
    assert mean_time_between_failures(failing(0.5).cluster.with_nodes(4)) == DAY / 2
    assert mean_time_between_failures(failing(0.0).cluster) == math.inf


def test_the_logbooks_say_what_was_published() -> None:
    rates = {book.name: book.per_node_day for book in LOGBOOKS}
    # One in about three hours on 16,384 GPUs.
    assert DAY / (rates["Llama 3 405B"] * 2048) / HOUR == pytest.approx(3.1, abs=0.05)
    assert rates["RSC-1"] > rates["RSC-2"]
    assert all(len(book.source) > 30 for book in LOGBOOKS)


@pytest.mark.parametrize("seed", range(3))
def test_no_second_is_lost(seed: int) -> None:
    job = failing(2.0, restart_s=300.0, slow=1.0, hiccups=5.0)._replace(
        work_s=50 * HOUR, checkpointing=Checkpointing(30.0, 200.0), buffer_s=10.0
    )
    found = simulate(job, seed)
    assert set(found.spent_s) == set(KINDS)
    assert sum(found.spent_s.values()) == pytest.approx(found.wall_s, rel=1e-9)
    assert found.spent_s["useful"] == pytest.approx(job.work_s, rel=1e-9)
    assert min(found.failures, found.slow_nodes, found.hiccups) > 0
    assert min(found.spent_s.values()) > 0


def test_without_failures_checkpoints_are_all_that_is_spent() -> None:
    job = failing(0.0)
    found = simulate(job, 0)
    # 200 intervals and 199 checkpoints between them.
    assert found.wall_s == pytest.approx(200 * HOUR + 199 * 60)
    assert found.failures == 0


def test_a_closed_form_beyond_the_range_of_numbers_is_infinite() -> None:
    assert expected_wall_s(1e6, 100.0, 1.0, restart_s=1e5, mtbf_s=34.0) == math.inf


def test_a_run_that_never_ends_is_left_after_so_many_events() -> None:
    job = failing(2500.0, restart_s=600.0)  # a failure in 35 s, and restarts of ten minutes
    found = simulate(job, 0)
    assert not found.is_whole
    assert found.failures == MOST_EVENTS
    assert sum(found.spent_s.values()) == pytest.approx(found.wall_s, rel=1e-9)
    standing = simulate(failing(0.0, hiccups=1e6), 0)  # each of 60 s
    assert not standing.is_whole
    assert standing.spent_s["stalled"] > 0.9 * standing.wall_s


def test_a_run_that_is_left_early_says_how_long_the_whole_takes() -> None:
    job = failing(4.0, restart_s=600.0)
    whole = expected_goodput(job._replace(work_s=3000 * HOUR), runs=2)
    longer = expected_goodput(job._replace(work_s=30_000 * HOUR), runs=2)  # more than MOST_EVENTS failures
    assert longer.failures > MOST_EVENTS > whole.failures
    assert longer.wall_s == pytest.approx(10 * whole.wall_s, rel=0.05)
    assert longer.goodput == pytest.approx(whole.goodput, rel=0.05)


@pytest.mark.parametrize("commit_s", [0.0, 40.0, 900.0])
def test_intervals_that_are_passed_at_once_change_no_second(
    commit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failing(3.0, restart_s=300.0, slow=3.0, hiccups=5.0)._replace(
        interval_s=61.0, checkpointing=Checkpointing(3.0, commit_s), buffer_s=10.0
    )
    ahead = simulate(job, 0)
    monkeypatch.setattr("viewmill.tools.planning.simulation._Run._run_ahead", lambda _: iter(()))
    each = simulate(job, 0)
    assert ahead.wall_s == pytest.approx(each.wall_s, rel=1e-9)
    assert ahead.failures == each.failures > 10
    for kind in KINDS:
        assert ahead.spent_s[kind] == pytest.approx(each.spent_s[kind], rel=1e-6), kind


def test_many_short_intervals_cost_few_events() -> None:
    found = simulate(failing(1.0)._replace(work_s=1e8, interval_s=0.1, checkpointing=Checkpointing(0.1)), 0)
    assert found.is_whole  # a thousand million intervals
    assert found.goodput == pytest.approx(0.5, rel=0.01)


def test_the_simulation_takes_as_long_as_the_closed_form_expects() -> None:
    job = failing(4.0, restart_s=600.0)
    wall = [simulate(job, seed).wall_s for seed in range(60)]
    mean = sum(wall) / len(wall)
    error = (sum((one - mean) ** 2 for one in wall) / (len(wall) - 1) / len(wall)) ** 0.5
    expected = expected_wall_s(job.work_s, job.interval_s, 60.0, 600.0, DAY / 4)
    assert abs(mean - expected) < 4 * error
    assert error < 0.02 * expected  # else the line above says nothing


def test_the_best_simulated_interval_is_dalys() -> None:
    job = failing(4.0)
    ideal = daly(60.0, DAY / 4)
    goodput = {
        share: expected_goodput(job._replace(interval_s=share * ideal), runs=30).goodput
        for share in (0.2, 1.0, 5.0)
    }
    assert max(goodput, key=lambda share: goodput[share]) == 1.0


def test_a_checkpoint_counts_when_it_is_whole() -> None:
    quick, late = (
        expected_goodput(failing(4.0)._replace(checkpointing=Checkpointing(60.0, commit_s)), runs=20).goodput
        for commit_s in (0.0, 2400.0)
    )
    assert late < quick


def test_slow_nodes_slow_all_ranks() -> None:
    job = failing(0.0, slow=24.0)  # nearly always one, 1.2 times as slow
    found = simulate(job, 0)
    assert found.spent_s["slowed"] == pytest.approx(0.2 * job.work_s, rel=0.05)


def test_a_buffer_hides_hiccups_that_are_shorter() -> None:
    job = failing(0.0, hiccups=24.0)
    assert simulate(job._replace(buffer_s=60.0), 0).spent_s["stalled"] == 0
    shown = simulate(job._replace(buffer_s=20.0), 0)
    assert shown.spent_s["stalled"] == pytest.approx(40.0 * shown.hiccups, rel=0.05)


def test_the_same_seed_gives_the_same_run() -> None:
    job = failing(2.0, slow=1.0, hiccups=2.0)
    assert simulate(job, 7) == simulate(job, 7) != simulate(job, 8)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="need work and interval > 0"):
        simulate(failing(1.0)._replace(interval_s=0.0), 0)
