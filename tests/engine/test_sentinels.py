"""Alarms are told once when they last, and once when they end."""

from viewmill.engine.sentinels import PATIENCE, Sentinels


def test_a_complaint_that_lasts_is_told_once() -> None:
    sentinels = Sentinels()
    told = [sentinels.judge({"collapse": "all alike"}) for _ in range(PATIENCE + 3)]
    assert [len(events) for events in told] == [0] * (PATIENCE - 1) + [1, 0, 0, 0]
    assert told[PATIENCE - 1][0] == ("alarm", "collapse", "all alike")


def test_its_end_is_told_and_it_may_come_again() -> None:
    sentinels = Sentinels()
    for _ in range(PATIENCE):
        sentinels.judge({"collapse": "all alike"})
    assert [event.event for event in sentinels.judge({})] == ["alarm_over"]
    assert sentinels.judge({}) == []
    told = [sentinels.judge({"collapse": "again"}) for _ in range(PATIENCE)]
    assert told[-1][0].message == "again"


def test_a_passing_complaint_is_not_told() -> None:
    sentinels = Sentinels()
    assert not any(sentinels.judge({"collapse": "x"} if line % PATIENCE else {}) for line in range(30))
