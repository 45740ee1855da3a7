"""When a rank that waits has waited too long, and whom it names."""

import pytest
from viewmill.engine.config import ConfigError
from viewmill.engine.faults.heartbeat import Peer
from viewmill.engine.faults.judge import HUNG, HUNG_COLLECTIVE, HUNG_DATA, LOST_RANK, judge
from viewmill.engine.faults.limits import FaultsConfig
from viewmill.engine.faults.pulse import Dwell, Phase, Place, Pulse

from tests.engine.tiny import tiny_config

LIMITS = FaultsConfig()
MEETING = Place(Phase.MEETING, step=7, entry=30, batches=0, is_first_step=False)
WELL = Peer(1, "node1", 41, step=7, phase="collective", entry=30, failed="", silent_s=2.0, is_gone=False)


def test_a_rank_that_waits_within_its_limit_is_well() -> None:
    assert judge(MEETING, LIMITS.hang_s, [WELL], LIMITS) is None


def test_a_silent_rank_is_named_once_another_has_waited_as_long() -> None:
    silent = WELL._replace(silent_s=LIMITS.silent_s)
    assert judge(MEETING, LIMITS.silent_s - 1, [silent], LIMITS) is None
    finding = judge(MEETING, LIMITS.silent_s, [silent], LIMITS)
    assert finding is not None
    assert finding.kind == LOST_RANK
    assert finding.culprits == (silent,)
    assert finding.cause.startswith("rank 1: no sign of it for 45 s (node1, pid 41; last at step 7 in")


def test_who_waits_for_data_blames_no_other_rank() -> None:
    place = MEETING._replace(phase=Phase.DATA)
    silent = WELL._replace(silent_s=1e6)
    assert judge(place, LIMITS.hang_s - 1, [silent], LIMITS) is None
    finding = judge(place, LIMITS.hang_s, [silent], LIMITS)
    assert finding is not None
    assert (finding.kind, finding.culprits) == (HUNG_DATA, ())


def test_the_rank_that_did_not_come_to_a_collective_is_named() -> None:
    late = WELL._replace(rank=2, entry=29, phase="data-wait")
    finding = judge(MEETING, LIMITS.of(MEETING), [WELL, late], LIMITS)
    assert finding is not None
    assert (finding.kind, finding.culprits) == (HUNG_COLLECTIVE, (late,))
    assert "rank 2 (node1, pid 41; last at step 7 in data-wait) did not come" in finding.cause


def test_a_collective_in_which_all_ranks_wait_is_the_networks_fault() -> None:
    finding = judge(MEETING, LIMITS.of(MEETING), [WELL], LIMITS)
    assert finding is not None
    assert (finding.kind, finding.culprits) == (HUNG_COLLECTIVE, ())
    assert "network" in finding.cause


def test_the_one_that_is_waited_for_comes_to_its_limit_first() -> None:
    assert LIMITS.of(MEETING._replace(phase=Phase.DATA)) + LIMITS.silent_s <= LIMITS.of(MEETING)


def test_the_first_step_may_compile() -> None:
    place = MEETING._replace(phase=Phase.COMPUTE)
    finding = judge(place, LIMITS.hang_s, [], LIMITS)
    assert finding is not None
    assert finding.kind == HUNG
    assert judge(place._replace(is_first_step=True), LIMITS.hang_s, [], LIMITS) is None


def test_a_rank_that_told_its_failure_is_named_with_it() -> None:
    failed = WELL._replace(phase="end", failed="disk is gone")
    finding = judge(MEETING, LIMITS.silent_s, [failed], LIMITS)
    assert finding is not None
    assert finding.cause.endswith("it failed (node1, pid 41; last at step 7 in end): disk is gone")


def test_a_rank_that_has_ended_well_is_not_silent() -> None:
    ended = WELL._replace(phase="end", silent_s=1e6)
    assert judge(MEETING, LIMITS.silent_s, [ended], LIMITS) is None


def test_each_batch_of_a_long_phase_begins_its_time_anew() -> None:
    pulse, dwell = Pulse(), Dwell(every_s=1.0)
    pulse.enter(Phase.PASS, step=0)
    seen = [dwell.look(pulse.at, now_s) for now_s in (100.0, 101.0, 102.0)]
    pulse.beat()
    assert [*seen, dwell.look(pulse.at, 103.0)] == [0.0, 1.0, 2.0, 0.0]


def test_a_phase_that_was_slow_before_may_be_slow_again() -> None:
    place, dwell = MEETING._replace(phase=Phase.COMPUTE), Dwell(every_s=20.0)
    for now_s in (0.0, 50.0, 100.0):
        dwell.look(place, now_s)
    dwell.look(MEETING, 110.0)
    longest_s = dwell.longest_s(Phase.COMPUTE)
    assert (longest_s, dwell.longest_s(Phase.MEETING)) == (100.0, 0.0)
    assert judge(place, 999.0, [], LIMITS, longest_s) is None
    assert judge(place, 1000.0, [], LIMITS, longest_s) is not None


def test_a_pause_of_the_whole_machine_is_no_hang() -> None:
    place, dwell = Pulse().at, Dwell(every_s=1.0)
    dwell.look(place, 100.0)
    assert dwell.look(place, 4000.0) == 5.0


def test_only_the_first_step_of_a_session_is_the_first() -> None:
    pulse, seen = Pulse(), []
    for step in (40, 40, 41):
        pulse.enter(Phase.COMPUTE, step)
        seen.append(pulse.at.is_first_step)
    assert seen == [True, True, False]


def test_a_silence_shorter_than_three_heartbeats_is_refused() -> None:
    with pytest.raises(ConfigError, match="faults: silent_s 10 is below three heartbeats of 5 s"):
        tiny_config(faults={"silent_s": 10.0})
