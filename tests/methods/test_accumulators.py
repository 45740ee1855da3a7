"""Accumulators in one process: what they refuse, how they go on, and what k-means and IMSVD promise."""

import itertools
import math

import numpy as np
import pytest
import torch
from viewmill.methods.cluster_counts import ClusterClassCounts
from viewmill.methods.exemplars import NOBODY, Exemplars, KeptRows
from viewmill.methods.joint_matrix import JointAccumulator
from viewmill.methods.moments import MomentsAccumulator
from viewmill.methods.priors import PriorAccumulator
from viewmill.methods.prototypes import PrototypeAccumulator

from tests.methods.accumulated import ACCUMULATORS, CHOSEN, DIM, LABELS, SAMPLES, add, found_by, rows_of_all


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_states_of_parts_add_up_to_the_whole(name: str) -> None:
    whole, resumed = ACCUMULATORS[name](), ACCUMULATORS[name]()
    add(whole, slice(0, SAMPLES))
    for part in (slice(0, 20), slice(20, 20), slice(20, SAMPLES)):
        alone = ACCUMULATORS[name]()
        add(alone, part)
        resumed.add_state(alone.state_dict())
    for accumulator in (whole, resumed):
        accumulator.pool()
    assert resumed.count == whole.count == SAMPLES
    for key, values in found_by(whole).items():
        assert found_by(resumed)[key] == pytest.approx(values, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_a_batch_that_would_spoil_the_sums_is_refused_and_leaves_them(name: str) -> None:
    accumulator = ACCUMULATORS[name]()
    add(accumulator, slice(0, SAMPLES))
    before = accumulator.state_dict()
    with pytest.raises(ValueError, match="not finite"):
        accumulator.update(rows_of_all().index_fill(0, torch.tensor([7]), math.inf))
    with pytest.raises(ValueError, match=rf"\(n, {DIM}\).*\({SAMPLES}, {DIM - 1}\)"):
        accumulator.update(rows_of_all()[:, 1:])
    assert all(torch.equal(before[key], value) for key, value in accumulator.state_dict().items())


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_a_state_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="state"):
        ACCUMULATORS[name]().load_state_dict({"sums": torch.zeros(3, dtype=torch.float64)})
    with pytest.raises(ValueError, match="state"):
        ACCUMULATORS[name]().add_state({"sums": torch.zeros(3, dtype=torch.float64)})


def test_of_equal_scores_the_smaller_id_is_the_exemplar_in_any_order() -> None:
    rows = torch.tensor([[1.0], [2.0], [2.0], [2.0]])
    for order in itertools.permutations(range(4)):
        best = Exemplars(1, keep=2)
        for place in order:
            best.of_samples(np.array([10 + place]))
            best.update(rows[[place]])
        assert best.ids().flatten().tolist() == [11, 12]


def test_places_without_a_sample_are_nobodys() -> None:
    best = Exemplars(2, keep=3)
    best.of_samples(np.array([7]))
    best.update(torch.zeros(1, 2))
    assert best.ids().tolist() == [[7, 7], [NOBODY, NOBODY], [NOBODY, NOBODY]]


def test_rows_of_unknown_samples_are_refused() -> None:
    for accumulator in (Exemplars(2, 1), KeptRows(CHOSEN, 2), ClusterClassCounts(2, LABELS)):
        with pytest.raises(ValueError, match="2 rows of unknown samples"):
            accumulator.update(torch.zeros(2, 2))
        accumulator.of_samples(np.array([1]))
        with pytest.raises(ValueError, match="2 rows of 1 samples"):
            accumulator.update(torch.zeros(2, 2))


def test_clusters_want_a_class_for_every_image_and_refuse_cells_of_others() -> None:
    with pytest.raises(ValueError, match="a class for each image"):
        ClusterClassCounts(3, LABELS - 1)
    state = {"cells": torch.tensor([15]), "counts": torch.tensor([1])}
    with pytest.raises(ValueError, match="cells lie below 15"):
        ClusterClassCounts(3, LABELS).add_state(state)


def test_settings_tell_apart_what_does_not_add_up() -> None:
    prototypes = torch.eye(4)
    told = [
        PriorAccumulator(4, 0.1).settings(),
        PriorAccumulator(4, 0.2).settings(),
        MomentsAccumulator(4).settings(),
        JointAccumulator(4, 2).settings(),
        JointAccumulator(4, 2, temperature=2.0).settings(),
        PrototypeAccumulator(prototypes).settings(),
        PrototypeAccumulator(prototypes, 0.1).settings(),
        PrototypeAccumulator(-prototypes).settings(),
    ]
    assert all(one != other for at, one in enumerate(told) for other in told[:at])
    assert PrototypeAccumulator(prototypes).settings() == PrototypeAccumulator(3 * prototypes).settings()


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        MomentsAccumulator(3).mean()
    with pytest.raises(ValueError, match="no samples"):
        ClusterClassCounts(3, LABELS).purity()
    with pytest.raises(ValueError, match="no samples"):
        PrototypeAccumulator(torch.eye(3)).fit()
    joint = JointAccumulator(4, 2)
    joint.update(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"call pool\(\)"):
        joint.statistics()


def test_passes_of_k_means_never_lower_the_fit_and_find_the_directions_of_the_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=1)
    rows = centres.repeat(50, 1) + 0.1 * torch.randn(300, 16, generator=generator)
    # Two starts in one cluster and none in another: the empty cluster must find its way.
    prototypes, fits = torch.cat([rows[:5], -rows.sum(dim=0, keepdim=True)]), []
    for _ in range(12):
        accumulator = PrototypeAccumulator(prototypes)
        accumulator.update(rows)
        fits.append(accumulator.fit())
        prototypes = accumulator.refresh()
    assert all(later >= earlier - 1e-4 for earlier, later in itertools.pairwise(fits))
    assert torch.equal(accumulator.weights().sort().values, torch.full((6,), 50.0, dtype=torch.float64))
    nearest = (centres.double() @ prototypes.T).max(dim=1)
    assert nearest.values.min() > 0.99
    assert len(set(nearest.indices.tolist())) == 6


def test_soft_prototypes_become_hard_ones_as_the_temperature_falls() -> None:
    hard, soft = (PrototypeAccumulator(rows_of_all()[:4], temperature) for temperature in (None, 1e-5))
    for accumulator in (hard, soft):
        accumulator.update(rows_of_all())
    torch.testing.assert_close(soft.weights(), hard.weights())
    torch.testing.assert_close(soft.refresh(), hard.refresh())


def test_independent_uniform_variables_have_no_mutual_information_and_equal_ones_all_of_it() -> None:
    units = 4
    grid = torch.cartesian_prod(torch.arange(units), torch.arange(units))
    for second, information in ((grid[:, 1], 0.0), (grid[:, 0], math.log(units))):
        codes = torch.nn.functional.one_hot(torch.stack([grid[:, 0], second], dim=1), units)
        accumulator = JointAccumulator(2 * units, units)
        accumulator.update(100.0 * codes.flatten(1))
        accumulator.pool()
        found = accumulator.statistics()
        assert found.marginal_entropy == pytest.approx(math.log(units), abs=1e-6)
        assert found.mutual_information == pytest.approx(information, abs=1e-5)
        assert found.share_above == {0.9: 1.0, 0.99: 1.0}


def test_blocks_of_columns_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for numbers in (2**22, 60, 1):
        monkeypatch.setattr("viewmill.methods.joint_matrix._BLOCK_NUMBERS", numbers)
        accumulator = JointAccumulator(DIM, 3)
        accumulator.update(rows_of_all())
        accumulator.pool()
        found.append(accumulator.statistics()[:3])
    assert found[1] == pytest.approx(found[0], rel=1e-12)
    assert found[2] == pytest.approx(found[0], rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MomentsAccumulator(0), "dim must be >= 1"),
        (lambda: JointAccumulator(10, 3), "no 2 or more variables of 3"),
        (lambda: JointAccumulator(8, 2, temperature=0.0), "temperature must be > 0"),
        (lambda: PrototypeAccumulator(torch.ones(1, 3)), r"\(K >= 2, D\), got \(1, 3\)"),
        (lambda: PrototypeAccumulator(torch.zeros(2, 3)), "has no direction"),
        (lambda: PrototypeAccumulator(torch.eye(3), temperature=-1.0), "temperature must be > 0 or None"),
        (lambda: PriorAccumulator(4, temperature=0.0), "temperature must be > 0"),
        (lambda: PriorAccumulator(4).update(torch.zeros(2, 4)), "got \\(2, 4\\) and None"),
    ],
)
def test_wrong_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
