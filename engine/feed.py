"""This rank's micro-batches of each step, which it goes on with when all ranks have theirs."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from viewmill.engine.agreement import gather_json, largest, raise_everywhere
from viewmill.engine.clock import StepClock
from viewmill.engine.faults.pulse import Phase, Pulse
from viewmill.engine.ledger import Ledger
from viewmill.engine.preemption import SignalWatch
from viewmill.engine.run_checkpoints import RunCheckpoints
from viewmill.engine.spans import Part, Spans, unmeasured
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import World
from viewmill.pipelines.loader import Batch, Loader


@dataclass
class Feed:
    """Where the ranks meet, once a step: when one cannot read its batch, none goes on alone.

    There they also hear of each other's signals and substitutes, and of a checkpoint that all have written.
    """

    world: World
    loader: Loader
    accumulation: int
    signals: SignalWatch
    checkpoints: RunCheckpoints
    ledger: Ledger
    log: RunLog
    pulse: Pulse
    clock: StepClock
    spans: Spans = unmeasured
    known_substitutions: int = 0  # of the loader's list

    def steps(self, step: int) -> Iterator[tuple[list[Batch], int]]:
        """Micro-batches of each step, and the number of a signal that any rank has seen (or 0), without end.

        Args:
            step: those that are done.

        Raises:
            RankError: a rank could not read its batch; on that rank the error itself.
        """
        while True:
            epoch = iter(self.loader)
            while True:
                self.pulse.enter(Phase.DATA, step)
                with self.spans(Part.DATA):
                    batches, error = fetch(epoch, self.accumulation)
                self.pulse.enter(Phase.MEETING, step)
                stop = self._meet(step, error)
                if not batches:
                    break
                yield batches, stop
                del batches  # before the next ones are here
                step += 1

    def _meet(self, step: int, error: Exception | None) -> int:
        """The number of a signal that any rank has seen, or 0."""
        new = self.loader.substituted - self.known_substitutions
        told = [self.signals.seen, error is not None, new, self.checkpoints.is_unwritten]
        with self.spans(Part.MEETING), self.clock.meeting():
            stop, failed, any_new, any_unwritten = largest(self.world, told)
        if self.checkpoints.is_begun and not any_unwritten:
            self.pulse.enter(Phase.CHECKPOINT, step)
            with self.spans(Part.CHECKPOINT):
                self.checkpoints.end()
        if any_new:
            self._note_substitutions(step)
        if failed:
            raise_everywhere(self.world, error)
        return stop

    def _note_substitutions(self, step: int) -> None:
        """New substitutions of all ranks, batches made ahead included, go into the events and the ledger."""
        mine = [made._asdict() for made in self.loader.substitutions[self.known_substitutions :]]
        self.known_substitutions += len(mine)
        made = [one for ones in gather_json(self.world, mine) for one in ones]
        self.ledger.add(made)
        self.log.event("substitutes", step, samples=made)


def fetch(epoch: Iterator[Batch], count: int) -> tuple[list[Batch], Exception | None]:
    """The next step's micro-batches (none: the epoch is over), or what kept them from being read."""
    try:
        return list(itertools.islice(epoch, count)), None
    except Exception as error:  # agreed on and raised by every rank
        return [], error
