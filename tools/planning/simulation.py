"""A job as a discrete-event simulation: failures, slow nodes, storage that stands still, checkpoints."""

import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.failures import DAY, Checkpointing

# Failures, slow nodes and hiccups after which a run is not followed further: what it did until then says how
# it goes on, for all of them come at constant rates.
MOST_EVENTS = 5_000
# What a simulated second is spent on; all of them add up to the wall time.
KINDS = ("useful", "lost", "checkpoint", "restart", "slowed", "stalled")
Waits = Generator[Any, Any, bool]  # a part of a process of simpy, and what came of it


class Job(NamedTuple):
    """What is simulated; seconds."""

    work_s: float  # of the training, when all goes well
    interval_s: float  # of work between two checkpoints
    checkpointing: Checkpointing
    cluster: Cluster
    buffer_s: float = 0.0  # of views made ahead: a hiccup of the storage shows after it


class Outcome(NamedTuple):
    """One simulated run."""

    wall_s: float
    spent_s: dict[str, float]  # by KINDS
    failures: int
    slow_nodes: int
    hiccups: int
    is_whole: bool  # False: it ended after MOST_EVENTS, before the work did

    @property
    def goodput(self) -> float:
        """Share of the wall time that brought the training forward, at full speed, and was kept."""
        return self.spent_s["useful"] / self.wall_s


def simulate(job: Job, seed: int) -> Outcome:
    """One run to its end, or to MOST_EVENTS, drawn from the seed.

    A failure ends all ranks: the work since the last whole checkpoint is lost, and `restart_s` passes, which
    a failure begins anew. A step takes as long as the slowest node's. Draws are exponential.

    Raises:
        ValueError: work, interval or costs that cannot be.
    """
    if min(job.work_s, job.interval_s) <= 0 or min(job.checkpointing) < 0:
        raise ValueError(f"need work and interval > 0 and costs >= 0, got {job}")
    return _Run(job, seed).outcome()


class _Run:
    """The processes of one run in simpy's time."""

    def __init__(self, job: Job, seed: int) -> None:
        import simpy

        self._interrupt = simpy.Interrupt
        self._job, self._env = job, simpy.Environment()
        self._rng = np.random.default_rng(seed)
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._done = 0.0  # work behind the newest whole checkpoint, which nothing takes away
        self._since = 0.0  # work after it
        self._since_slowed = 0.0  # seconds that slow nodes added to that
        self._pending: list[tuple[float, float]] = []  # (when it is whole, work that it holds)
        self._slow: list[float] = []  # until when
        self._stall_until = 0.0
        self._counts = {"failures": 0, "slow_nodes": 0, "hiccups": 0}
        self._training = self._env.process(self._train())
        reliability, nodes = job.cluster.reliability, job.cluster.nodes
        for happens, per_day in (
            (self._fail, nodes * reliability.failures_per_node_day),
            (self._slow_down, nodes * reliability.slow_per_node_day),
            (self._hiccup, reliability.hiccups_per_day),
        ):
            if per_day:
                self._env.process(self._recur(happens, DAY / per_day))

    def outcome(self) -> Outcome:
        self._env.run(self._training)
        is_whole = self._spent["useful"] >= self._job.work_s * (1 - 1e-9)
        return Outcome(self._env.now, self._spent, **self._counts, is_whole=is_whole)

    @property
    def _is_enough(self) -> bool:
        return sum(self._counts.values()) >= MOST_EVENTS

    def _recur(self, happens: Any, mean_s: float) -> Iterator[Any]:
        while True:
            yield self._env.timeout(self._rng.exponential(mean_s))
            if self._training.is_alive:
                happens()

    def _fail(self) -> None:
        self._counts["failures"] += 1
        self._training.interrupt("failure")

    def _slow_down(self) -> None:
        self._counts["slow_nodes"] += 1
        self._slow.append(self._env.now + 3600 * self._job.cluster.reliability.slow_hours)
        self._training.interrupt("speed")

    def _hiccup(self) -> None:
        self._counts["hiccups"] += 1
        begins = self._env.now + self._job.buffer_s
        ends = self._env.now + self._job.cluster.reliability.hiccup_s
        if ends > begins:
            self._stall_until = max(self._stall_until, ends)
            self._training.interrupt("speed")

    def _train(self) -> Generator[Any, Any, None]:
        """Work and checkpoints in turn; an interruption is looked at by whoever is interrupted."""
        job = self._job
        while self._done + self._since < job.work_s and not self._is_enough:
            yield from self._run_ahead()
            goal = min(job.interval_s, job.work_s - self._done - self._since)
            whole = yield from self._work(goal)
            if not whole:
                yield from self._restart()
                continue
            if self._done + self._since >= job.work_s * (1 - 1e-12):
                break
            if not (yield from self._pass(job.checkpointing.stall_s, "checkpoint")):
                yield from self._restart()
                continue
            self._pending.append((self._env.now + job.checkpointing.commit_s, self._since))
        self._keep(self._since)

    def _run_ahead(self) -> Generator[Any, Any, None]:
        """At once, the whole intervals in which nothing will happen: thousands lie between two failures."""
        job, now = self._job, self._env.now
        self._settle()
        if self._stall_until > now + job.buffer_s:
            return
        factor = self._factor()
        cycle_s = job.interval_s * factor + job.checkpointing.stall_s
        # The last interval before the next event, and the run's last one, go the way of all others.
        undisturbed = (min(self._env.peek(), *self._slow, math.inf) - now) / cycle_s
        left = (job.work_s - self._done - self._since) / job.interval_s
        count = math.floor(min(undisturbed, left)) - 1
        if count < 1:
            return
        since = self._since
        yield self._env.timeout(count * cycle_s)
        self._since += count * job.interval_s
        self._since_slowed += count * job.interval_s * (factor - 1)
        self._spent["checkpoint"] += count * job.checkpointing.stall_s
        # Those that are not whole yet, and the newest that is.
        unwritten = min(count, math.ceil(job.checkpointing.commit_s / cycle_s) + 1)
        for number in range(count - unwritten + 1, count + 1):
            when = now + number * cycle_s + job.checkpointing.commit_s
            self._pending.append((when, since + number * job.interval_s))

    def _work(self, goal: float) -> Waits:
        """So much work, at the speed of the slowest node; False: a failure came before its end."""
        while goal > self._instant() and not self._is_enough:
            self._settle()
            if self._stall_until - self._env.now - self._job.buffer_s > self._instant():
                if not (yield from self._stall()):
                    return False
                continue
            factor = self._factor()
            until = min(goal * factor, min(self._slow, default=math.inf) - self._env.now)
            began = self._env.now
            failed = yield from self._wait(until)
            passed = self._env.now - began
            self._since += passed / factor
            self._since_slowed += passed * (1 - 1 / factor)
            goal -= passed / factor
            if failed:
                return False
        return True

    def _instant(self) -> float:
        """Below this no time passes: after years, seconds have few digits left behind the point."""
        return max(1e-9, 1e-15 * self._env.now)

    def _factor(self) -> float:
        """How much longer a step takes, by the nodes that are slow."""
        return self._job.cluster.reliability.slow_factor if self._slow else 1.0

    def _stall(self) -> Waits:
        """Waits for the storage; False: a failure came."""
        began = self._env.now
        failed = yield from self._wait(self._stall_until - self._job.buffer_s - began)
        self._spent["stalled"] += self._env.now - began
        return not failed

    def _pass(self, seconds: float, kind: str) -> Waits:
        """Lets time pass whatever the speed is; False: a failure came before its end."""
        ends = self._env.now + seconds
        while self._env.now < ends and not self._is_enough:
            began = self._env.now
            failed = yield from self._wait(ends - began)
            self._spent[kind] += self._env.now - began
            if failed:
                return False
        return True

    def _wait(self, seconds: float) -> Waits:
        """Until then, or until something happens; True: it was a failure."""
        try:
            yield self._env.timeout(max(0.0, seconds))
        except self._interrupt as interruption:
            return interruption.cause == "failure"
        return False

    def _restart(self) -> Generator[Any, Any, None]:
        """Falls back to the newest whole checkpoint and starts anew; a failure meanwhile does that again."""
        self._settle()
        self._spent["lost"] += self._since
        self._spent["slowed"] += self._since_slowed
        self._since = self._since_slowed = 0.0
        self._pending.clear()
        while not self._is_enough:
            if (yield from self._pass(self._job.cluster.reliability.restart_s, "restart")):
                break

    def _settle(self) -> None:
        """Checkpoints that are whole by now, and nodes that are well again."""
        self._slow = [until for until in self._slow if until > self._env.now]
        whole = [held for when, held in self._pending if when <= self._env.now]
        if whole:
            self._pending = [(when, held) for when, held in self._pending if when > self._env.now]
            self._keep(max(whole))
            self._pending = [(when, held - max(whole)) for when, held in self._pending]

    def _keep(self, work: float) -> None:
        self._done += work
        self._since -= work
        self._spent["useful"] += work
        self._spent["slowed"] += self._since_slowed
        self._since_slowed = 0.0


class Goodput(NamedTuple):
    """Means over simulated runs, with the standard error of the goodput."""

    goodput: float
    standard_error: float
    wall_s: float  # of the whole work; of runs that were not followed to their end, by their goodput
    spent_fraction: dict[str, float]
    failures: float  # in that time
    runs: int


def expected_goodput(
    job: Job, *, runs: int = 20, seed: int = 0, progress: Callable[[], None] | None = None
) -> Goodput:
    """Of so many runs, drawn from seeds that follow each other's; `progress` is called after each."""
    outcomes = []
    for number in range(runs):
        outcomes.append(simulate(job, seed + number))
        if progress is not None:
            progress()
    shares = np.array([outcome.goodput for outcome in outcomes])
    wall = sum(outcome.wall_s for outcome in outcomes)
    useful = sum(outcome.spent_s["useful"] for outcome in outcomes)
    scale = job.work_s / useful if useful else math.inf  # 1 / runs, where all of them came to their end
    return Goodput(
        goodput=float(shares.mean()),
        standard_error=float(shares.std(ddof=1) / math.sqrt(runs)) if runs > 1 else 0.0,
        wall_s=wall * scale,
        spent_fraction={kind: sum(outcome.spent_s[kind] for outcome in outcomes) / wall for kind in KINDS},
        failures=sum(outcome.failures for outcome in outcomes) * scale,
        runs=runs,
    )
