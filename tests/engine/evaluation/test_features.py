"""The pass over a data set: each sample's representation in its row, once, on any number of ranks."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.features import evaluation_views, extract, extract_all
from viewmill.engine.evaluation.untrained import fresh_backbone
from viewmill.engine.passes.reading import Reading
from viewmill.engine.world import World
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.views import ViewPlanner
from viewmill.shards.manifest import Dataset

from tests.engine.evaluation.features_on_ranks import SETTINGS, ColorMeans, on_a_rank
from tests.engine.tiny import tiny_data_set
from tests.support import run_ranks

ALONE = World(0, 1, 0, torch.device("cpu"))
SAMPLES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("features"), count=SAMPLES)


@pytest.fixture
def dataset(data: Path) -> Iterator[Dataset]:
    with Dataset.open(data) as opened:
        yield opened


def backbone() -> nn.Module:
    return fresh_backbone(partial(build_backbone, "test_resnet", image_size=32), 0)


def test_row_i_is_the_representation_of_sample_i(dataset: Dataset) -> None:
    found = extract(backbone(), dataset, world=ALONE, batch_size=4, **SETTINGS)
    views = evaluation_views(32)
    executor, planner, alone = (
        ReferenceExecutor(views, max_batch=1, num_threads=1),
        ViewPlanner(views, 0),
        backbone(),
    )
    for sample in range(SAMPLES):
        plan = planner.draw(0, [sample], dataset.sizes([sample]))
        image = executor.run(dataset.read([sample]), plan)[0]
        with torch.no_grad():
            expected = alone.eval()(image)[0]
        torch.testing.assert_close(found.features[sample], expected, atol=1e-5, rtol=1e-4)
    assert found.features.dtype == torch.float32
    assert found.labels.tolist() == dataset.labels(range(SAMPLES)).tolist()
    assert found.ids.tolist() == list(range(SAMPLES))


def test_several_backbones_share_a_pass(dataset: Dataset) -> None:
    reading = Reading(ALONE, "reference", num_threads=1, batch_size=4)
    both = extract_all([ColorMeans(), backbone()], dataset, evaluation_views(32), reading)
    alone = extract(backbone(), dataset, world=ALONE, batch_size=4, **SETTINGS)
    assert [one.features.shape[1] for one in both] == [3, alone.features.shape[1]]
    assert torch.equal(both[1].features, alone.features)


def test_a_backbone_in_training_is_put_into_evaluation(dataset: Dataset) -> None:
    trained = backbone().train()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    extract(trained, dataset, world=ALONE, **SETTINGS)
    assert not trained.training
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_the_views_are_normalised_as_the_backbone_was_trained() -> None:
    views = evaluation_views(96, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (views.sizes, views.views[0].resize_to) == ((96,), 110)
    assert (views.mean, views.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_progress_tells_of_every_sample(dataset: Dataset) -> None:
    told: list[tuple[str, int, int]] = []
    reading = Reading(ALONE, "reference", 1, 4, progress=lambda *line: told.append(line))
    extract_all([ColorMeans()], dataset, evaluation_views(32), reading, what="train images")
    assert told == [("train images", done, SAMPLES) for done in (4, 8, 11)]


def test_a_representation_that_is_not_finite_names_the_sample(dataset: Dataset) -> None:
    broken = backbone()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    key = dataset.keys([0])[0]
    with pytest.raises(RuntimeError, match=f"11 samples are not finite, the first is '{key}'"):
        extract(broken, dataset, world=ALONE, **SETTINGS)


@pytest.fixture(scope="module")
def two_ranks(data: Path) -> list[dict[str, Any]]:
    return run_ranks(2, on_a_rank, str(data))


@pytest.mark.slow
def test_every_rank_has_all_rows_though_shares_differ(
    two_ranks: list[dict[str, Any]], dataset: Dataset
) -> None:
    assert SAMPLES % 2
    alone = extract(ColorMeans(), dataset, world=ALONE, **SETTINGS)
    for seen in two_ranks:
        torch.testing.assert_close(seen["features"], alone.features)
        assert torch.equal(seen["labels"], alone.labels)


@pytest.mark.slow
def test_a_rank_without_rows_takes_part_in_the_gather(two_ranks: list[dict[str, Any]]) -> None:
    assert all(seen["few"].tolist() == [7.0] for seen in two_ranks)


@pytest.mark.slow
def test_a_rank_that_cannot_read_stops_all(two_ranks: list[dict[str, Any]]) -> None:
    errors = [seen["error"] for seen in two_ranks]
    assert errors[1] == "ShardError: the shard is gone"
    assert errors[0] == "RankError: rank 1: ShardError: the shard is gone"
