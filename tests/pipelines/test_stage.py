"""A stage of the flow: order, bounds, back-pressure, errors, and its end."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from viewmill.pipelines.flow.flow import Flow
from viewmill.pipelines.flow.stage import Bounds, Load, Stage, Stopped
from viewmill.pipelines.flow.stats import StageStats

MANY = Bounds(100, 1 << 30)


def stage(
    source: Callable[[], int],
    work: Callable[[int], int],
    bounds: Bounds = MANY,
    *,
    threads: int = 1,
    num_bytes: Callable[[int], int] = lambda item: 1,
    patience_s: float = 1.0,
) -> Stage[int, int]:
    stats = StageStats("test", threads)
    return Stage(source, work, lambda item: Load(1, num_bytes(item)), bounds, stats, patience_s)


def numbers(count: int) -> Callable[[], int]:
    return iter(range(count)).__next__


def drained(flow: Flow[int]) -> Iterator[int]:
    while True:
        try:
            yield flow.next()
        except StopIteration:
            return


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.002)


def test_results_come_in_the_order_of_the_input_whatever_thread_is_first() -> None:
    def work(item: int) -> int:
        time.sleep(0.003 * (item % 3 == 0))
        return item * item

    flow = Flow([stage(numbers(60), work, threads=5)])
    assert list(drained(flow)) == [item * item for item in range(60)]
    with pytest.raises(StopIteration):  # and again
        flow.next()


def test_stages_work_at_the_same_time() -> None:
    began = threading.Event()

    def begin(item: int) -> int:
        if item == 1:
            began.set()
        return item

    def wait_for_the_next(item: int) -> int:
        assert item or began.wait(20), "the first stage does nothing while the second works"
        return item

    first = stage(numbers(2), begin)
    assert list(drained(Flow([first, stage(first.take, wait_for_the_next)]))) == [0, 1]


def test_no_more_than_the_bound_is_ready_or_in_the_making() -> None:
    asked: list[int] = []
    one = stage(numbers(50), lambda item: asked.append(item) or item, Bounds(3, 1 << 30), threads=4)
    flow = Flow([one])
    for taken in range(5):
        until(lambda expected=taken + 3: len(asked) == expected)
        time.sleep(0.02)
        assert len(asked) == taken + 3
        assert one.stats.ready == 3
        assert flow.next() == taken
    flow.close()


def test_bytes_bound_it_too_and_one_item_may_always_be_larger() -> None:
    sizes = [40, 40, 40, 500, 10]
    one = stage(numbers(5), lambda item: item, Bounds(9, 100), num_bytes=sizes.__getitem__)
    flow = Flow([one])
    seen = []
    for ready_bytes in (80, 80, 40, 500, 10):  # the large one waits until it is alone
        until(lambda expected=ready_bytes: one.stats.ready_bytes == expected)
        time.sleep(0.02)
        seen.append(one.stats.ready_bytes)
        flow.next()
    assert seen == [80, 80, 40, 500, 10]
    flow.close()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("where", ["source", "first", "second"])
def test_an_error_of_any_stage_comes_after_the_results_before_it(where: str, threads: int) -> None:
    def source() -> Iterator[int]:
        for item in range(10):
            if where == "source" and item == 4:
                raise OSError("no more disk")
            yield item

    def work(name: str) -> Callable[[int], int]:
        def one(item: int) -> int:
            if where == name and item == 4:
                raise OSError("no more disk")
            return item

        return one

    first = stage(source().__next__, work("first"), threads=threads)
    flow = Flow([first, stage(first.take, work("second"))])
    assert [flow.next() for _ in range(4)] == [0, 1, 2, 3]
    for _ in range(2):
        with pytest.raises(OSError, match="no more disk"):
            flow.next()
    until(lambda: not any(thread.is_alive() for thread in first.threads))


def test_closing_ends_threads_that_wait_for_input_for_room_or_for_a_result() -> None:
    never = threading.Event()
    first = stage(lambda: (never.wait(0.2), 1)[1], lambda item: item)
    second = stage(first.take, lambda item: item, Bounds(1, 1))
    flow = Flow([first, second])
    until(lambda: second.stats.ready == 1)
    flow.close()
    assert not any(thread.is_alive() for thread in (*first.threads, *second.threads))
    with pytest.raises(Stopped, match="closed"):
        flow.next()
    assert second.stats.ready == second.stats.ready_bytes == 0


def test_a_thread_that_does_not_end_is_named_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    never = threading.Event()
    first = stage(numbers(5), abs)
    stuck = stage(first.take, lambda item: never.wait() and item, patience_s=0.1)
    flow = Flow([first, stuck])
    until(lambda: stuck._given == 1)
    assert not flow.close()
    assert "viewmill-test is still at work" in caplog.text
    never.set()  # the disk answers at last: nobody asks for the item any more
    until(lambda: not stuck.threads[0].is_alive())


def test_a_stage_whose_threads_are_gone_is_an_error_and_no_hang() -> None:
    gone = stage(numbers(5), lambda item: item)
    with pytest.raises(RuntimeError, match="threads of stage 'test' have ended"):
        gone.take()  # never started


def test_each_wait_is_counted_where_it_was() -> None:
    def slowly(item: int) -> int:
        time.sleep(0.03)
        return item

    for slow in ("first", "second"):
        first = stage(numbers(4), slowly if slow == "first" else abs, Bounds(1, 9))
        second = stage(first.take, slowly if slow == "second" else abs, Bounds(1, 9))
        assert list(drained(Flow([first, second]))) == [0, 1, 2, 3]
        busy, other = (first, second) if slow == "first" else (second, first)
        assert busy.stats.busy_s >= 0.12
        assert (second.stats.input_wait_s if busy is first else first.stats.room_wait_s) > 0
        assert (other.stats.batches, other.stats.images, other.stats.taken) == (4, 4, 4)
