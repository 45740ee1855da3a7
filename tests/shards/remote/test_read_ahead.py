"""Inputs of a remote shard are on their way before they are asked for, some of them, in their order."""

import threading
import time

import pytest
from viewmill.shards.storage import read_ahead
from viewmill.shards.storage.read_ahead import Planned, reading_ahead
from viewmill.shards.storage.tree import Changed, FileState

STATE = FileState(1000, "tag")
PLANNED = [Planned("x.tar", 10 * number, 10, STATE) for number in range(40)]


class SlowTree:
    """Gives the offset as text, after a while; counts what is under way."""

    def __init__(self, waits: bool = True, delay_s: float = 0.01) -> None:
        self.waits, self.delay_s = waits, delay_s
        self.asked: list[int] = []
        self.lock = threading.Lock()

    def read(self, file: str, offset: int, size: int, planned: FileState) -> bytes:
        with self.lock:
            self.asked.append(offset)
        time.sleep(self.delay_s)
        if offset == 70:
            raise Changed
        return str(offset).encode()


def test_each_gets_its_own_bytes_or_error() -> None:
    tree = SlowTree()
    with reading_ahead(tree, PLANNED) as ahead:
        for one in PLANNED:
            if one.offset == 70:
                with pytest.raises(Changed):
                    ahead.read(*one)
            else:
                assert ahead.read(*one) == str(one.offset).encode()
            assert len(tree.asked) <= one.offset // 10 + 2 * 8
    assert sorted(tree.asked) == [one.offset for one in PLANNED]


def test_what_is_not_planned_is_read_at_once_and_costs_nothing_that_is() -> None:
    tree = SlowTree()
    with reading_ahead(tree, PLANNED[:20]) as ahead:
        assert ahead.read("other", 5, 1, STATE) == b"5"
        for one in [*PLANNED[:7], *PLANNED[8:20]]:
            assert ahead.read(*one) == str(one.offset).encode()
    assert len(tree.asked) == 21


def test_bytes_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_MOST_BYTES", 35)
    tree = SlowTree()
    with reading_ahead(tree, PLANNED) as ahead:
        ahead.read(*PLANNED[0])
        time.sleep(0.1)
        assert sorted(tree.asked) == [0, 10, 20]


def test_a_local_tree_is_read_as_it_is() -> None:
    tree = SlowTree(waits=False)
    with reading_ahead(tree, PLANNED) as ahead:
        assert ahead is tree
