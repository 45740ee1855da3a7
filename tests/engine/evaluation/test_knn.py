"""k-NN against formulas that share no code with it, and its rules where two are equal."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from viewmill.engine.evaluation.knn import NO_CLASS, Neighbours, nearest, vote

CLASSES = 7


@pytest.fixture
def sets() -> tuple[Tensor, Tensor, Tensor]:
    """(57, 12) queries, (301, 12) bank with classes that a query can find."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 12, generator=draw)
    labels = torch.randint(CLASSES, (301,), generator=draw)
    bank = centres[labels] + torch.randn(301, 12, generator=draw)
    queries = centres[torch.arange(57) % CLASSES] + torch.randn(57, 12, generator=draw)
    return queries, bank, labels


def cosines(queries: Tensor, bank: Tensor) -> np.ndarray:
    """(n, N) in float64, pair by pair."""
    rows = []
    for query in queries.double().numpy():
        norms = [math.sqrt(sum(query**2)) * math.sqrt(sum(row**2)) for row in bank.double().numpy()]
        rows.append([sum(query * row) / norm for row, norm in zip(bank.double().numpy(), norms, strict=True)])
    return np.array(rows)


def ranked_in_float64(
    queries: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float
) -> list[list[int]]:
    """Classes by sum of exp(s / T) over the k nearest, those with a vote only, best first."""
    ranked = []
    for row in cosines(queries, bank):
        votes: dict[int, float] = {}
        for place in sorted(range(len(row)), key=lambda place: -row[place])[:k]:
            label = int(labels[place])
            votes[label] = votes.get(label, 0.0) + math.exp(row[place] / temperature)
        ranked.append(sorted(votes, key=lambda label: -votes[label])[:5])
    return ranked


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            self.numel = max(self.numel, tensor.numel())
        return made


def _tensors(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, (tuple, list)):
        for part in made:
            yield from _tensors(part)


@pytest.mark.parametrize(("query_block", "bank_block"), [(512, 8192), (10, 33), (1, 7), (57, 301)])
def test_the_nearest_are_those_of_all_pairs(
    sets: tuple[Tensor, Tensor, Tensor], query_block: int, bank_block: int
) -> None:
    queries, bank, _ = sets
    found = nearest(queries, bank, 20, query_block=query_block, bank_block=bank_block)
    expected = cosines(queries, bank)
    order = np.argsort(-expected, axis=1)[:, :20]
    np.testing.assert_array_equal(found.rows.numpy(), order)
    np.testing.assert_allclose(found.similarity.numpy(), np.take_along_axis(expected, order, 1), atol=1e-6)


def test_opposite_vectors_come_last() -> None:
    bank = torch.tensor([[-1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, -1e-3]])
    found = nearest(torch.tensor([[1.0, 0.0]]), bank, 4)
    assert found.rows.tolist() == [[2, 1, 3, 0]]
    assert found.similarity[0].tolist() == pytest.approx([1, 0, -1, -1])


@pytest.mark.parametrize("bank_block", [2, 3, 100])
def test_of_equally_similar_rows_the_lower_comes_first(bank_block: int) -> None:
    # Axes, so that cosines are 1, 0 and -1 to the last bit in every block.
    bank = torch.eye(4)[[1, 0, 1, 2, 1, 0, 1, 3]]
    queries = torch.stack([torch.eye(4)[1], -torch.eye(4)[0]])
    found = nearest(queries, bank, 6, bank_block=bank_block)
    assert found.rows.tolist() == [[0, 2, 4, 6, 1, 3], [0, 2, 3, 4, 6, 7]]


def test_a_zero_vector_is_similar_to_nothing() -> None:
    found = nearest(torch.zeros(1, 3), torch.randn(5, 3), 2)
    assert found.similarity.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("k", [1, 20, 200])
def test_weighted_votes_are_those_of_the_formula(sets: tuple[Tensor, Tensor, Tensor], k: int) -> None:
    queries, bank, labels = sets
    ranked = vote(nearest(queries, bank, k), labels, CLASSES, 0.07).tolist()
    expected = ranked_in_float64(queries, bank, labels, k, 0.07)
    assert ranked == [row + [NO_CLASS] * (5 - len(row)) for row in expected]


def test_scikit_learn_finds_the_same_majorities_and_weighted_votes(
    sets: tuple[Tensor, Tensor, Tensor],
) -> None:
    queries, bank, labels = sets
    for temperature, weights in ((None, "uniform"), (0.07, lambda distance: np.exp((1 - distance) / 0.07))):
        theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weights)
        theirs.fit(bank.double().numpy(), labels.numpy())
        ours = vote(nearest(queries, bank, 20), labels, CLASSES, temperature)[:, 0]
        np.testing.assert_array_equal(ours.numpy(), theirs.predict(queries.double().numpy()))


def test_fewer_neighbours_are_the_first_of_more(sets: tuple[Tensor, Tensor, Tensor]) -> None:
    queries, bank, _ = sets
    few, many = nearest(queries, bank, 5), nearest(queries, bank, 50).first(5)
    assert torch.equal(few.rows, many.rows)
    assert torch.equal(few.similarity, many.similarity)


def test_of_classes_with_equal_votes_the_lower_number_wins() -> None:
    neighbours = Neighbours(torch.full((1, 4), 0.5), torch.tensor([[0, 1, 2, 3]]))
    ranked = vote(neighbours, torch.tensor([6, 2, 6, 2]), CLASSES, None)
    assert ranked.tolist() == [[2, 6, NO_CLASS, NO_CLASS, NO_CLASS]]


def test_a_low_temperature_leaves_the_nearest_and_overflows_nothing() -> None:
    neighbours = Neighbours(torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[0, 1, 2]]))
    ranked = vote(neighbours, torch.tensor([3, 1, 1]), CLASSES, 1e-6)
    assert ranked.tolist() == [[3, 1, NO_CLASS, NO_CLASS, NO_CLASS]]


def test_memory_is_that_of_a_block() -> None:
    queries, bank = torch.randn(100, 4), torch.randn(3000, 4)
    with LargestTensor() as largest:
        nearest(queries, bank, 10, query_block=16, bank_block=128)
    # All the similarities would be 300,000.
    assert largest.numel <= 16 * (128 + 10)


def test_more_neighbours_than_rows_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"1 \.\. 5.*got 6"):
        nearest(torch.randn(2, 3), torch.randn(5, 3), 6)


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="queries have 3 features, the bank has 4"):
        nearest(torch.randn(2, 3), torch.randn(5, 4), 1)


def test_a_temperature_that_is_not_positive_is_refused(sets: tuple[Tensor, Tensor, Tensor]) -> None:
    queries, bank, labels = sets
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        vote(nearest(queries, bank, 3), labels, CLASSES, 0.0)
