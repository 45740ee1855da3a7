"""N = trained + substituted + dropped, epoch by epoch."""

from viewmill.engine.ledger import Ledger


def made(epoch: int, position: int) -> dict[str, int]:
    return {"epoch": epoch, "position": position}


def test_an_epoch_adds_up() -> None:
    ledger = Ledger(26, 8)
    ledger.add([made(0, 3), made(0, 9)])
    line = ledger.close(0)
    assert line == {"epoch": 0, "samples": 26, "trained": 22, "substituted": 2, "dropped": 2}


def test_a_place_counts_once_however_many_candidates_it_took() -> None:
    ledger = Ledger(26, 8)
    ledger.add([made(0, 3), made(0, 3), made(0, 3)])
    assert ledger.close(0)["substituted"] == 1


def test_what_was_made_ahead_counts_in_its_own_epoch() -> None:
    ledger = Ledger(26, 8)
    ledger.add([made(0, 3), made(1, 0)])
    assert [ledger.close(epoch)["substituted"] for epoch in (0, 1, 2)] == [1, 1, 0]


def test_a_resumed_run_goes_on_with_the_open_epoch() -> None:
    before, after = Ledger(26, 8), Ledger(26, 8)
    before.add([made(1, 3), made(1, 17)])
    after.load(before.state())
    after.add([made(1, 17)])  # made ahead before the stop, and again
    assert after.close(1)["substituted"] == 2
