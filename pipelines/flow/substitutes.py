"""One bad sample costs one sample: which one stands in for it, the list of them, and when it is too many."""

import logging
from typing import NamedTuple

from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.philox import Stream, keyed_words
from viewmill.pipelines.samples import Samples

log = logging.getLogger(__name__)

# Where this many candidates in a row are bad, so is the data set, whatever the budget.
_MAX_ATTEMPTS = 100


class Substitution(NamedTuple):
    """A sample that could not be used, where it stood, and what was taken instead."""

    epoch: int
    position: int  # in the epoch's order
    id: int
    substitute: int
    reason: str


def substitute_of(seed: int, epoch: int, sample: int, attempt: int, order: Order) -> int:
    """The id that stands in for `sample` in this epoch, the `attempt`-th one to be tried (from 0).

    A function of the plan alone, so every executor, rank and resumed run takes the same one. The order says
    among which samples: those of a subset, or of the same data set of a mixture. It may be the sample itself
    or another bad one: then the next attempt follows.
    """
    high, low = keyed_words(seed, Stream.SUBSTITUTES, epoch, sample, attempt)[:2]
    return order.stand_in(sample, int(high) << 32 | int(low))


class Substitutes:
    """The substitutions so far, and the budget: how many different samples may be bad before it is an error.

    Args:
        dataset: for the keys in the log.
        order: among whose samples substitutes are found.
        seed: of the run.
        max_substitutes: different bad samples that are borne; one returns every epoch and counts once. A
            float is a share of the data set's samples, rounded down.

    Raises:
        ValueError: a negative budget, or a share that is not below 1.
    """

    def __init__(self, dataset: Samples, order: Order, seed: int, max_substitutes: int | float) -> None:
        if max_substitutes < 0:
            raise ValueError(f"max_substitutes must be >= 0, got {max_substitutes}")
        if isinstance(max_substitutes, float):
            if not max_substitutes < 1:
                raise ValueError(
                    f"max_substitutes must be a whole number, or a share below 1, got {max_substitutes}"
                )
            max_substitutes = int(max_substitutes * dataset.num_samples)
        self.made: list[Substitution] = []
        self._dataset = dataset
        self._order = order
        self._seed = seed
        self._max_substitutes = max_substitutes
        self._bad: dict[int, str] = {}  # id -> "'key': reason"

    @property
    def num_bad(self) -> int:
        """How many different samples could not be used."""
        return len(self._bad)

    def replace(self, epoch: int, position: int, planned: int, bad: int, attempt: int, reason: str) -> int:
        """The next candidate for the sample `planned`, after `bad` (itself, or a candidate) has failed.

        Raises:
            RuntimeError: more different bad samples than the budget, or 100 bad candidates; names their keys.
        """
        if bad not in self._bad:
            self._bad[bad] = f"'{self._dataset.keys([bad])[0]}': {reason}"
        self._check_budget(attempt)
        substitute = substitute_of(self._seed, epoch, planned, attempt, self._order)
        self.made.append(Substitution(epoch, position, bad, substitute, reason))
        log.warning(
            "epoch %d, position %d: sample %s; sample %d is taken instead",
            epoch, position, self._bad[bad], substitute,
        )  # fmt: skip
        return substitute

    def _check_budget(self, attempt: int) -> None:
        if len(self._bad) <= self._max_substitutes and attempt < _MAX_ATTEMPTS:
            return
        raise RuntimeError(
            f"{self._dataset.shown}: {len(self._bad)} samples cannot be used, "
            f"{self._max_substitutes} are allowed (max_substitutes): {'; '.join(self._bad.values())}; "
            f"run: viewmill verify {self._dataset.shown}"
        )
