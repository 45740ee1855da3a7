"""A job as a discrete-event simulation: failures, slow nodes, storage that stands still, checkpoints."""

import math
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.failures import DAY, Checkpointing

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

    @property
    def goodput(self) -> float:
        """Share of the wall time that brought the training forward, at full speed, and was kept."""
        return self.spent_s["useful"] / self.wall_s


def simulate(job: Job, seed: int) -> Outcome:
    """One run to its end, drawn from the seed.

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
        return Outcome(self._env.now, self._spent, **self._counts)

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
        while self._done + self._since < job.work_s:
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

    def _work(self, goal: float) -> Waits:
        """So much work, at the speed of the slowest node; False: a failure came before its end."""
        while goal > 1e-9:
            self._settle()
            if self._stall_until > self._env.now + self._job.buffer_s:
                if not (yield from self._stall()):
                    return False
                continue
            factor = self._job.cluster.reliability.slow_factor if self._slow else 1.0
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

    def _stall(self) -> Waits:
        """Waits for the storage; False: a failure came."""
        began = self._env.now
        failed = yield from self._wait(self._stall_until - self._job.buffer_s - began)
        self._spent["stalled"] += self._env.now - began
        return not failed

    def _pass(self, seconds: float, kind: str) -> Waits:
        """Lets time pass whatever the speed is; False: a failure came before its end."""
        ends = self._env.now + seconds
        while self._env.now < ends:
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
        while not (yield from self._pass(self._job.cluster.reliability.restart_s, "restart")):
            pass

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
    wall_s: float
    spent_fraction: dict[str, float]
    failures: float
    runs: int


def expected_goodput(job: Job, *, runs: int = 20, seed: int = 0) -> Goodput:
    """Of so many runs, drawn from seeds that follow each other's."""
    outcomes = [simulate(job, seed + number) for number in range(runs)]
    shares = np.array([outcome.goodput for outcome in outcomes])
    wall = sum(outcome.wall_s for outcome in outcomes)
    return Goodput(
        goodput=float(shares.mean()),
        standard_error=float(shares.std(ddof=1) / math.sqrt(runs)) if runs > 1 else 0.0,
        wall_s=wall / runs,
        spent_fraction={kind: sum(outcome.spent_s[kind] for outcome in outcomes) / wall for kind in KINDS},
        failures=sum(outcome.failures for outcome in outcomes) / runs,
        runs=runs,
    )
