"""The untrained backbone: seeded, and with BatchNorm statistics of the images it will see."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.features import evaluation_views, extract_all
from viewmill.engine.evaluation.untrained import (
    estimate_batchnorm,
    fresh_backbone,
    has_batchnorm,
    statistics_ids,
)
from viewmill.engine.passes.reading import Reading, read_views
from viewmill.engine.world import World
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import tiny_data_set

BUILD = partial(build_backbone, "test_resnet", image_size=32)
VIEWS = evaluation_views(32)
READING = Reading(World(0, 1, 0, torch.device("cpu")), executor="reference", num_threads=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    with Dataset.open(tiny_data_set(tmp_path_factory.mktemp("untrained"), count=80)) as opened:
        yield opened


def test_a_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (fresh_backbone(BUILD, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.0.weight"], other["conv1.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_statistics_are_the_mean_over_forward_passes_on_the_images(dataset: Dataset) -> None:
    backbone = fresh_backbone(BUILD, 0)
    estimate_batchnorm([backbone], dataset, VIEWS, READING)
    images = torch.cat([batch.views[0] for batch in read_views(dataset, VIEWS, READING)])
    # 80 images are two passes: the even ids and the odd ones.
    passes = [backbone.conv1[0](images[start::2]).detach().double() for start in (0, 1)]
    means = [maps.mean(dim=(0, 2, 3)) for maps in passes]
    variances = [maps.var(dim=(0, 2, 3), correction=1) for maps in passes]
    norm = backbone.conv1[1]
    torch.testing.assert_close(norm.running_mean.double(), sum(means) / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var.double(), sum(variances) / 2, atol=1e-5, rtol=1e-4)


def test_only_statistics_change_and_the_backbone_is_left_ready(dataset: Dataset) -> None:
    backbone, untouched = fresh_backbone(BUILD, 0), fresh_backbone(BUILD, 0)
    momenta = [module.momentum for module in backbone.modules() if isinstance(module, _BatchNorm)]
    estimate_batchnorm([backbone], dataset, VIEWS, READING)
    for (name, weight), other in zip(backbone.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(weight, other), name
    assert not any(module.training for module in backbone.modules())
    assert momenta == [module.momentum for module in backbone.modules() if isinstance(module, _BatchNorm)]


def test_several_backbones_get_the_statistics_that_each_gets_alone(dataset: Dataset) -> None:
    both = [fresh_backbone(BUILD, seed) for seed in (0, 1)]
    estimate_batchnorm(both, dataset, VIEWS, READING)
    alone = fresh_backbone(BUILD, 1)
    estimate_batchnorm([alone], dataset, VIEWS, READING)
    assert torch.equal(both[1].bn1.running_mean, alone.bn1.running_mean)
    assert not torch.equal(both[0].bn1.running_mean, alone.bn1.running_mean)


def test_statistics_of_images_tell_the_images_further_apart(dataset: Dataset) -> None:
    born, estimated = fresh_backbone(BUILD, 0), fresh_backbone(BUILD, 0)
    estimate_batchnorm([estimated], dataset, VIEWS, READING)
    found = extract_all([born, estimated], dataset, VIEWS, READING)
    likeness = []
    for features in found:
        unit = nn.functional.normalize(features.features, dim=1)
        likeness.append((unit @ unit.T).mean().item())
    assert likeness[1] < likeness[0]


@pytest.mark.parametrize("num_samples", [1, 63, 64, 65, 1000, 1024, 1025, 10_007])
def test_statistics_images_are_spread_over_the_data_set(num_samples: int) -> None:
    batches = statistics_ids(num_samples)
    ids = np.concatenate(batches)
    assert len(set(ids.tolist())) == len(ids) == min(num_samples, 1024)
    assert ids.min() == 0
    assert ids.max() >= num_samples - -(-num_samples // 1024)
    assert max(map(len, batches)) <= 64
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    # Each batch too: a data set stored class by class gives every batch every class.
    assert all(np.diff(batch).max() <= num_samples / len(batch) + 1 for batch in batches if len(batch) > 1)


def test_a_backbone_without_batchnorm_reads_no_image(dataset: Dataset) -> None:
    backbone = fresh_backbone(partial(build_backbone, "test_vit", image_size=32), 0)
    assert not has_batchnorm(backbone)
    estimate_batchnorm([backbone], dataset, VIEWS, Reading(READING.world, executor="no such executor"))
