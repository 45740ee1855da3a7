"""Few labels, gradient descent and support vector machines, against scikit-learn and torch."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from viewmill.engine.evaluation.contenders import TRAINED, Evidence, rows_of_classes
from viewmill.engine.evaluation.linear_probe import fit_linear_probe, standardisation
from viewmill.engine.evaluation.low_shot import check_shares, rows_of_share
from viewmill.engine.evaluation.one_vs_all import class_precision, folds_of
from viewmill.engine.evaluation.probes import low_shot_outcomes, svm_outcome
from viewmill.engine.evaluation.rate_grid import BATCH, MOMENTUM, SEED, fit_rate_grid, train_probes
from viewmill.engine.evaluation.tasks import parse_tasks
from viewmill.engine.world import World
from viewmill.pipelines.order import SampleOrder

ALONE = World(0, 1, 0, torch.device("cpu"))
CLASSES = 4


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """400 features to learn from and 200 to predict, of classes that overlap."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 10, generator=draw)
    labels = torch.randint(CLASSES, (600,), generator=draw)
    # One feature is large, one never changes: both must not matter.
    scale = torch.tensor([100.0, *[1.0] * 8, 0.0])
    features = (centres[labels] + 1.5 * torch.randn(600, 10, generator=draw)) * scale + 3
    return Evidence(
        {TRAINED: features[:400]}, {TRAINED: features[400:]}, labels[:400], labels[400:], CLASSES, {}
    )


def test_a_share_takes_as_much_of_every_class_and_grows_by_adding() -> None:
    labels = torch.cat([torch.zeros(100), torch.ones(37), torch.full((3,), 2)]).long()
    shares = {percent: rows_of_share(labels, percent) for percent in (1, 10, 50, 100)}
    assert labels[shares[10]].bincount().tolist() == [10, 4, 1]
    assert labels[shares[1]].bincount().tolist() == [1, 1, 1]
    assert shares[100].tolist() == list(range(140))
    for few, many in ((1, 10), (10, 50)):
        assert set(shares[few].tolist()) < set(shares[many].tolist())
    assert rows_of_share(labels, 10, seed=1).tolist() != shares[10].tolist()
    for percent in (0, 101):
        with pytest.raises(ValueError, match="1 to 100 percent"):
            rows_of_share(labels, percent)


def test_a_share_too_small_to_hold_anything_out_is_refused_before_any_work() -> None:
    labels = torch.arange(400) % CLASSES
    with pytest.raises(ValueError, match=r"lowshot@1: 1 % of train are 1 images .*; take lowshot@5 or more"):
        check_shares(labels, [10, 1], "train")
    check_shares(labels, [5], "train")
    with pytest.raises(ValueError, match="leave lowshot out, no share is large enough"):
        check_shares(labels[: 4 * CLASSES], [100], "train")


def test_low_shot_is_the_linear_probe_of_the_share(evidence: Evidence) -> None:
    (found,) = low_shot_outcomes(evidence, [20], ALONE)
    rows = rows_of_share(evidence.bank_labels, 20)
    probe, _ = fit_linear_probe(evidence.bank[TRAINED][rows], evidence.bank_labels[rows], CLASSES)
    predicted = probe.logits(evidence.queries[TRAINED]).argmax(dim=1)
    assert found.scores[TRAINED].top1 == (predicted == evidence.query_labels).double().mean().item()
    assert (found.task, found.settings["images"]) == ("lowshot@20", len(rows))


def by_torchs_sgd(features: Tensor, labels: Tensor, rate: float, epochs: int) -> Tensor:
    """The weights (F, C) by torch's module, loss, optimizer and schedule, on the same batches."""
    mean, std = standardisation(features)
    layer = nn.Linear(features.shape[1], CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=MOMENTUM)
    steps = -(-len(labels) // BATCH) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        for start in range(0, len(labels), BATCH):
            rows = SampleOrder(len(labels), SEED).ids(epoch, start, min(start + BATCH, len(labels)))
            loss = nn.functional.cross_entropy(layer((features[rows] - mean) / std), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().T


def test_every_rate_of_the_grid_trains_as_torchs_sgd_does_alone(evidence: Evidence) -> None:
    features, labels = evidence.bank[TRAINED], evidence.bank_labels
    rates = (0.01, 0.1, 1.0)
    for rate, probe in zip(rates, train_probes(features, labels, CLASSES, rates, 5), strict=True):
        torch.testing.assert_close(
            probe.weight, by_torchs_sgd(features, labels, rate, 5), rtol=1e-3, atol=1e-5
        )


def test_at_the_end_sgd_predicts_what_scikit_learns_regression_does(evidence: Evidence) -> None:
    features, labels = evidence.bank[TRAINED], evidence.bank_labels
    probe, chosen = fit_rate_grid(features, labels, CLASSES, rates=(1e-4, 0.1), epochs=600)
    assert chosen.rate == 0.1
    mean, std = (number.numpy() for number in standardisation(features))
    theirs = LogisticRegression(C=np.inf, max_iter=1000).fit((features.numpy() - mean) / std, labels.numpy())
    expected = theirs.predict((evidence.queries[TRAINED].numpy() - mean) / std)
    agree = (probe.logits(evidence.queries[TRAINED]).argmax(dim=1).numpy() == expected).mean()
    assert agree >= 0.98  # a step size that has not quite ended leaves a few near the boundary


def test_a_rate_that_diverges_is_not_chosen_and_too_few_images_are_refused(evidence: Evidence) -> None:
    features, labels = evidence.bank[TRAINED], evidence.bank_labels
    _, chosen = fit_rate_grid(features, labels, CLASSES, rates=(0.1, 1e38), epochs=4)
    assert (chosen.rate, chosen.accuracy[1e38]) == (0.1, 0.0)
    with pytest.raises(ValueError, match="no class has five of the 4"):
        fit_rate_grid(features[:4], torch.arange(4), CLASSES)


def test_the_machine_of_a_class_is_scikit_learns_at_the_best_cost(evidence: Evidence) -> None:
    bank, queries = (
        nn.functional.normalize(side[TRAINED]).numpy() for side in (evidence.bank, evidence.queries)
    )
    known, asked = (labels.numpy() == 2 for labels in (evidence.bank_labels, evidence.query_labels))
    costs, fold = (0.01, 1.0, 30.0), folds_of(known)

    def precision(
        train: np.ndarray, test: np.ndarray, is_train: np.ndarray, is_test: np.ndarray, cost: float
    ) -> float:
        machine = LinearSVC(C=cost, class_weight={1: 2.0, 0: 1.0}, dual=False).fit(
            train, is_train.astype(int)
        )
        return float(average_precision_score(is_test, machine.decision_function(test)))

    means = [
        np.mean(
            [
                precision(bank[fold != k], bank[fold == k], known[fold != k], known[fold == k], cost)
                for k in range(3)
            ]
        )
        for cost in costs
    ]
    found = class_precision(bank, known, queries, asked, costs)
    assert found.cost == costs[int(np.argmax(means))]
    assert found.average_precision == pytest.approx(
        precision(bank, queries, known, asked, found.cost), abs=1e-3
    )
    assert class_precision(bank, known, queries, np.zeros(200, bool), costs).average_precision is None
    with pytest.raises(ValueError, match="a class has 1 of 400 training images"):
        class_precision(bank, np.arange(400) == 7, queries, asked)


def test_the_mean_average_precision_is_over_classes_on_any_rank(evidence: Evidence) -> None:
    found = svm_outcome(evidence, ALONE)
    by_class = [one["average_precision"] for one in found.notes["per_class"][TRAINED]]
    assert len(by_class) == CLASSES
    assert found.figures[TRAINED]["mean_average_precision"] == pytest.approx(np.mean(by_class))
    assert min(by_class) > 0.3  # chance is a quarter


def test_a_subset_of_classes_keeps_their_images_and_numbers_them_anew() -> None:
    labels = torch.tensor([0, 3, 1, 3, 2, 0])
    rows, moved = rows_of_classes(labels, [3, 0])
    assert isinstance(rows, Tensor)
    assert (rows.tolist(), moved.tolist()) == ([0, 1, 3, 5], [1, 0, 0, 1])
    rows, moved = rows_of_classes(labels, range(4))
    assert rows == slice(None)
    assert torch.equal(moved, labels)


def test_tasks_with_a_number_take_theirs_or_the_usual_ones() -> None:
    wanted = parse_tasks(["lowshot", "lowshot@5", "knn@3", "svm"])
    assert (wanted.percents, wanted.ks, wanted.others, wanted.needs_bank) == ([1, 5, 10], [3], {"svm"}, True)
    assert not parse_tasks(["geometry"]).needs_bank
