"""How well an order shuffles: what a batch mixes and when a sample returns, beside a perfect shuffle."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from viewmill.pipelines.orders import perfect
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.perfect import Expected
from viewmill.pipelines.orders.positions import steps_per_epoch

MAX_SAMPLES = 1 << 24  # whole epochs are held: 8 bytes a sample a few times over
# A share of a perfect shuffle's class entropy, and a distance from its law of return, that training bears.
GOOD_ENTROPY, FAIR_ENTROPY, GOOD_GAP = 0.98, 0.9, 0.02
_CHANCE = 4.0  # standard errors that a perfect shuffle may be off by chance


@dataclass(frozen=True)
class Figure:
    """A measured mean, that of perfect shuffles, and the standard error of a perfect shuffle's."""

    measured: float
    expected: float
    standard_error: float

    @property
    def errors_off(self) -> float:
        """Distance of measured and expected in standard errors."""
        difference = self.measured - self.expected
        if abs(difference) <= 1e-9 * abs(self.expected):  # rounding, where a figure cannot vary
            return 0.0
        return (
            difference / self.standard_error if self.standard_error else math.copysign(math.inf, difference)
        )


@dataclass(frozen=True)
class ShuffleQuality:
    """Figures of an order, over the full batches of some epochs.

    class_entropy: mean entropy of a batch's classes, nats. distinct_classes: mean number of classes in it.
    Both are None without two classes. adjacent_share: pairs of samples side by side on disk in one batch, a
    sample. step_length: mean distance on disk from one position to the next, as a share of the data set.
    returns_soon: share of samples that come again within a tenth of an epoch of positions. gap_distance:
    Kolmogorov-Smirnov distance of the position differences between an epoch and the next from the difference
    of two uniform numbers. always_dropped: samples that the short last batch has cost in every epoch.
    """

    batch_size: int
    epochs: int
    num_batches: int
    class_entropy: Figure | None
    distinct_classes: Figure | None
    adjacent_share: Figure
    step_length: Figure
    returns_soon: Figure
    gap_distance: Figure
    always_dropped: Figure

    def figures(self) -> dict[str, Figure]:
        """The figures that were measured, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: figure for name, figure in found.items() if isinstance(figure, Figure)}

    @property
    def entropy_share(self) -> float | None:
        """Class entropy of a batch as a share of a perfect shuffle's."""
        entropy = self.class_entropy
        return None if entropy is None else entropy.measured / entropy.expected

    @property
    def grade(self) -> str:
        """perfect: no figure tells it from a perfect shuffle. good, fair, poor: by class mix and return.

        Without classes, neighbours in a batch are all that could be related: few are good, many are fair.
        """
        if all(abs(figure.errors_off) <= _CHANCE for figure in self.figures().values()):
            return "perfect"
        mix = self.entropy_share
        if mix is None:
            mix = 1.0 if self.adjacent_share.measured <= 0.1 else FAIR_ENTROPY
        returns_well = self.gap_distance.measured - self.gap_distance.expected <= GOOD_GAP
        if mix >= GOOD_ENTROPY and returns_well:
            return "good"
        return "fair" if mix >= FAIR_ENTROPY else "poor"


def measure_shuffle(order: Order, labels: np.ndarray, batch_size: int, *, epochs: int = 3) -> ShuffleQuality:
    """Measures the first `epochs` epochs of an order.

    Args:
        order: one whose epochs hold every id at most once.
        labels: (num_ids,) class of every sample of the data set, -1 where there is none (a class of its own).
        batch_size: of the whole job.
        epochs: at least 2.

    Raises:
        ValueError: fewer than 2 epochs, fewer samples than a batch, more than `MAX_SAMPLES`, or an order that
            repeats ids.
    """
    if epochs < 2:
        raise ValueError(f"epochs must be >= 2 to see a sample return, got {epochs}")
    if order.repeats:
        raise ValueError("an order that repeats ids has no perfect shuffle beside it; measure its parts")
    if order.num_samples > MAX_SAMPLES:
        raise ValueError(
            f"{order.num_samples} samples: whole epochs of at most {MAX_SAMPLES} are measured; take a subset"
        )
    num_batches = epochs * steps_per_epoch(order.num_samples, batch_size)
    members = np.sort(order.ids(0, 0, order.num_samples))
    # By rank among the members, so that a subset's neighbours are neighbours.
    orders = [np.searchsorted(members, order.ids(epoch, 0, order.num_samples)) for epoch in range(epochs)]
    ranks = [_batches(ids, batch_size) for ids in orders]
    own_labels = np.unique(labels[members], return_inverse=True)[1]
    mix = [own_labels[batches] for batches in ranks]
    return ShuffleQuality(
        batch_size,
        epochs,
        num_batches,
        *_class_figures(mix, np.bincount(own_labels), batch_size, num_batches),
        _figure(_mean(_adjacent, ranks), perfect.adjacent_share(len(members), batch_size, num_batches)),
        _figure(_mean(_step_length, orders), perfect.step_length(len(members), epochs * (len(members) - 1))),
        *_return_figures(orders),
        _always_dropped(orders, len(members) % batch_size),
    )


def _class_figures(
    mix: list[np.ndarray], class_counts: np.ndarray, batch_size: int, num_batches: int
) -> tuple[Figure | None, Figure | None]:
    """Class entropy and distinct classes; mix: (batches, B) class numbers of each epoch."""
    if len(class_counts) < 2:
        return None, None
    num_classes = len(class_counts)
    entropy = _mean(lambda labels: perfect.entropies(labels, num_classes).mean(), mix)
    number = _mean(lambda labels: perfect.distinct(labels, num_classes).mean(), mix)
    return (
        _figure(entropy, perfect.class_entropy(class_counts, batch_size, num_batches)),
        _figure(number, perfect.distinct_classes(class_counts, batch_size, num_batches)),
    )


def _return_figures(orders: list[np.ndarray]) -> tuple[Figure, Figure]:
    """returns_soon and gap_distance, means over the pairs of following epochs."""
    places = [np.argsort(ids) for ids in orders]
    pairs = list(itertools.pairwise(places))
    soon, gap = (
        float(np.mean([measured(*pair) for pair in pairs]))
        for measured in (perfect.soon_share, perfect.triangular_distance)
    )
    size = len(orders[0])
    return (
        _figure(soon, perfect.returns_soon(size, len(pairs))),
        _figure(gap, perfect.gap_distance(size, len(pairs))),
    )


def _batches(ids: np.ndarray, batch_size: int) -> np.ndarray:
    """The full batches of an epoch: (steps, B)."""
    steps = len(ids) // batch_size
    return ids[: steps * batch_size].reshape(steps, batch_size)


def _adjacent(batches: np.ndarray) -> float:
    """Pairs of ranks that differ by 1 inside a batch, a sample."""
    return float((np.diff(np.sort(batches, axis=1), axis=1) == 1).sum() / batches.size)


def _step_length(ids: np.ndarray) -> float:
    return float(np.abs(np.diff(ids)).mean() / len(ids))


def _always_dropped(orders: list[np.ndarray], dropped: int) -> Figure:
    """How many samples stand among the last `dropped` of every epoch."""
    size = len(orders[0])
    common = orders[0][size - dropped :]
    for ids in orders[1:]:
        common = np.intersect1d(common, ids[size - dropped :])
    return _figure(len(common), perfect.dropped_always(size, dropped, len(orders)))


def _mean(measured: Callable[[np.ndarray], float], epochs: list[np.ndarray]) -> float:
    return float(np.mean([measured(epoch) for epoch in epochs]))


def _figure(measured: float, expected: Expected) -> Figure:
    return Figure(measured, expected.mean, expected.deviation)
