"""Classifiers on random crops: a known answer in float64, two ranks, a kill, what is told and refused."""

import math
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from viewmill.engine.evaluation.contenders import TRAINED, Evidence
from viewmill.engine.evaluation.crops import training
from viewmill.engine.evaluation.crops.protocol import PROTOCOLS, CropOptions, CropProtocol, crop_options
from viewmill.engine.evaluation.crops.task import crops_outcome, tell_cost
from viewmill.engine.evaluation.crops.training import trained_heads
from viewmill.engine.evaluation.features import evaluation_views, extract
from viewmill.engine.evaluation.rate_heads import RateHeads
from viewmill.engine.evaluation.scores import score, top_classes
from viewmill.engine.evaluation.tasks import parse_tasks
from viewmill.engine.world import World
from viewmill.pipelines.order import SampleOrder
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset

from tests.engine.evaluation.crops.crops_on_ranks import (
    CLASSES,
    SIZE,
    Corners,
    corners,
    crops_for,
    heads_on_a_rank,
    killed_in_the_second_epoch,
)
from tests.engine.tiny import tiny_data_set
from tests.support import run_ranks, start_method

ALONE = World(0, 1, 0, torch.device("cpu"))
COUNT = 31  # batches of 12, 12 and 7, of which ranks have 3 and 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("crops"), COUNT)


@pytest.fixture(scope="module")
def dataset(data: Path) -> Iterator[Dataset]:
    with Dataset.open(data) as opened:
        yield opened


@pytest.fixture(scope="module")
def uninterrupted(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """The packed classifiers of one process that nothing disturbed."""
    return trained_heads(corners(), crops_for(dataset, tmp_path_factory.mktemp("whole"), ALONE)).packed()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """45 pictures of one colour each, whose crops and flips are all alike; a class has reds of a range."""
    folder = tmp_path_factory.mktemp("plain")
    for number in range(45):
        red = 60 * (number % CLASSES) + number
        path = folder / "pictures" / f"class{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((20, 24, 3), (red, 5 * number, 255 - 3 * number), np.uint8)
        Image.fromarray(pixels).save(path)
    convert(folder / "pictures", folder / "data")
    with Dataset.open(folder / "data") as opened:
        yield opened


def in_float64(
    features: np.ndarray, labels: np.ndarray, protocol: CropProtocol, rate: float, chooser: bool
) -> np.ndarray:
    """(F + 1, C): weights above biases after all steps, in loops over images; no code of the probe."""
    count, width = features.shape
    seen: dict[int, int] = {}
    held = np.zeros(count, bool)
    for image in range(count):
        seen[labels[image]] = seen.get(labels[image], 0) + 1
        held[image] = seen[labels[image]] % 5 == 0
    weight, speed = np.zeros((width + 1, CLASSES)), np.zeros((width + 1, CLASSES))
    num_steps = math.ceil(count / protocol.batch)
    for epoch in range(protocol.epochs):
        order = SampleOrder(count, 0).ids(epoch, 0, count)
        for step in range(num_steps):
            batch = [
                image
                for image in order[step * protocol.batch : (step + 1) * protocol.batch]
                if not (chooser and held[image])
            ]
            gradient = protocol.decay * weight
            for image in batch:
                row = np.append(features[image].astype(np.float64), 1.0)
                power = np.exp(row @ weight - (row @ weight).max())
                error = power / power.sum()
                error[labels[image]] -= 1
                gradient = gradient + np.outer(row, error) / len(batch)
            speed = protocol.momentum * speed + gradient
            if protocol.milestones:
                factor = 0.1 ** len([one for one in protocol.milestones if one <= epoch])
            else:
                factor = 0.5 + 0.5 * math.cos(math.pi * (epoch + step / num_steps) / protocol.epochs)
            weight = weight - rate * factor * speed
    return weight


@pytest.mark.parametrize("milestones", [(), (1, 2)])
def test_where_crops_do_not_matter_the_weights_are_those_of_a_float64_sgd(
    plain: Dataset, tmp_path: Path, milestones: tuple[int, ...]
) -> None:
    crops = crops_for(plain, tmp_path, ALONE, milestones=milestones)
    heads = trained_heads(corners(), crops)
    found = extract(Corners(), plain, image_size=SIZE, world=ALONE, executor="reference", num_threads=1)
    features, labels = found.features.numpy(), found.labels.numpy()
    for head in range(4):
        probe = heads.probe(head)
        rate, chooser = crops.protocol.rates[head % 2], head >= 2
        expected = in_float64(features, labels, crops.protocol, rate, chooser)
        assert np.abs(expected).max() > 0.05
        ours = torch.cat([probe.weight, probe.bias[None]]).numpy()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_crops_change_from_epoch_to_epoch_and_every_image_is_seen_once_in_each(
    dataset: Dataset, tmp_path: Path
) -> None:
    crops = crops_for(dataset, tmp_path, ALONE)
    seen = list(training._batches(crops, range(2)))
    ids = np.concatenate([batch.ids for batch in seen])
    assert [len(batch.ids) for batch in seen] == [12, 12, 7] * 2
    for epoch in range(2):
        half = ids[epoch * COUNT : (epoch + 1) * COUNT]
        assert sorted(half.tolist()) == list(range(COUNT))
        assert half.tolist() == SampleOrder(COUNT, 0).ids(epoch, 0, COUNT).tolist()
    views = torch.cat([batch.views[0] for batch in seen])
    first, second = (views[epoch * COUNT :][np.argsort(ids[epoch * COUNT :][:COUNT])] for epoch in range(2))
    assert views.shape == (2 * COUNT, 3, SIZE, SIZE)
    assert bool(((first - second).abs().amax(dim=(1, 2, 3)) > 0).all())


@pytest.mark.slow
def test_two_ranks_train_the_classifiers_of_one(
    data: Path, dataset: Dataset, uninterrupted: Tensor, tmp_path: Path
) -> None:
    found = run_ranks(2, heads_on_a_rank, 2, str(data), str(tmp_path))
    assert torch.equal(found[0], found[1])
    # Pooling an image is the same sum in any batch; a network's kernels may sum another batch otherwise.
    torch.testing.assert_close(found[0], uninterrupted, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_killed_within_an_epoch_it_goes_on_and_ends_with_the_same_bits(
    data: Path, dataset: Dataset, uninterrupted: Tensor, tmp_path: Path
) -> None:
    victim = multiprocessing.get_context(start_method()).Process(
        target=killed_in_the_second_epoch, args=(str(data), str(tmp_path))
    )
    victim.start()
    victim.join(timeout=90)
    assert victim.exitcode == -9
    crops = crops_for(dataset, tmp_path, ALONE)
    assert training.epochs_done(corners(), crops) == 1
    read: list[range] = []
    batches = training._batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_batches", lambda *given: (read.append(given[1]), batches(*given))[1])
        heads = trained_heads(corners(), crops)
    assert read == [range(1, 3)]
    assert torch.equal(heads.packed(), uninterrupted)


def test_a_damaged_newest_state_costs_one_epoch(
    dataset: Dataset, tmp_path: Path, uninterrupted: Tensor
) -> None:
    short = crops_for(dataset, tmp_path, ALONE)
    keep = training._keep

    def keep_two(heads: RateHeads, contender: Any, crops: Any, epoch: int) -> None:
        keep(heads, contender, crops, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_keep", keep_two)
        with pytest.raises(KeyboardInterrupt):
            trained_heads(corners(), short)
    assert training.epochs_done(corners(), short) == 2
    path = short.cache._paths(short.key(corners(), 2))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert training.epochs_done(corners(), short) == 1
    assert torch.equal(trained_heads(corners(), short).packed(), uninterrupted)
    # The last two states stay: asked again, nothing is read.
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_batches", None)
        assert torch.equal(trained_heads(corners(), short).packed(), uninterrupted)


def test_the_rate_is_chosen_on_held_out_images_and_the_other_classifier_is_scored(
    dataset: Dataset, tmp_path: Path
) -> None:
    lines: list[str] = []
    crops = crops_for(dataset, tmp_path, ALONE, lines, rates=(1e-6, 0.5), published_rate=1e-6)
    tell_cost(crops, [corners()])
    found = extract(Corners(), dataset, image_size=SIZE, world=ALONE, executor="reference", num_threads=1)
    evidence = Evidence(
        {TRAINED: found.features}, {TRAINED: found.features}, found.labels, found.labels, CLASSES, {}
    )
    outcome = crops_outcome(crops, [corners()], evidence, evaluation_views(SIZE))
    notes = outcome.notes[TRAINED]
    heads = trained_heads(corners(), crops)
    held = crops.held_out
    assert notes["held_out"] == int(held.sum()) == 4
    for place, rate in enumerate(("1e-06", "0.5")):
        hits = heads.probe(2 + place).logits(found.features[held]).argmax(dim=1) == found.labels[held]
        assert notes["held_out_top1"][rate] == hits.double().mean().item()
    best = max(range(2), key=lambda place: (list(notes["held_out_top1"].values())[place], -place))
    expected = score(top_classes(heads.probe(best).logits(found.features)), found.labels, CLASSES)
    assert notes["rate"] == (1e-6, 0.5)[best]
    assert outcome.scores[TRAINED].top1 == expected.top1
    assert notes["published_rate"]["rate"] == 1e-6
    # What it costs is told before, and how long it takes once the first batches are done.
    assert "3 x images 31 x backbones 1 (trained) = 93 forwards of 16 pixels; 93 of them to do" in lines[0]
    assert lines[1].endswith("for the 0 that are left")
    assert len(lines) == 2


def test_an_image_that_is_held_out_does_not_change_what_chooses(dataset: Dataset, tmp_path: Path) -> None:
    crops = crops_for(dataset, tmp_path, ALONE)
    ids = np.arange(COUNT)
    counted = crops.counted(ids)
    assert counted is not None
    assert counted.shape == (COUNT, 4)
    assert counted[:, :2].all()
    assert torch.equal(counted[:, 2], ~crops.held_out)
    single = crops_for(dataset, tmp_path, ALONE, rates=(0.1,))
    assert single.counted(ids) is None
    assert single.num_heads == 1


def test_representations_that_are_not_finite_name_a_sample(dataset: Dataset, tmp_path: Path) -> None:
    broken = corners()
    broken.backbone.register_forward_hook(lambda module, images, output: output * torch.nan)
    with pytest.raises(
        RuntimeError, match=r"12 crops are not finite, the first is of 'class\d/\d+'"
    ) as error:
        trained_heads(broken, crops_for(dataset, tmp_path, ALONE))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_protocols_are_those_of_the_papers() -> None:
    imagenet, places = PROTOCOLS["imagenet"], PROTOCOLS["places205"]
    assert imagenet.id == (
        "crops-v1/imagenet/area-0.2-1/flip/momentum-0.9/decay-1e-06/cosine/100-epochs-of-256/"
        "rates-0.02-0.1-0.3-1-3-10-30/every-5th-of-train-chooses"
    )
    assert [imagenet.factor(epoch, 0, 10) for epoch in (0, 50)] == [1.0, pytest.approx(0.5)]
    assert imagenet.factor(99, 9, 10) < 1e-5
    rates = [places.factor(epoch, 3, 10) * places.published_rate for epoch in (0, 4, 5, 9, 10, 13)]
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    lightly = PROTOCOLS["lightly"]
    assert (lightly.epochs, lightly.batch, lightly.published_rate, lightly.decay) == (90, 256, 0.1, 0.0)
    assert all(one.published_rate in one.rates for one in PROTOCOLS.values())
    shorter = places.changed(CropOptions(epochs=7, rates=(0.01,)))
    assert (shorter.milestones, shorter.epochs, shorter.rates) == ((2, 5), 7, (0.01,))
    assert shorter.id != places.id
    (view,) = places.views(64, (0.5,) * 3, (0.5,) * 3).views
    assert (view.scale, view.flip, view.size, view.jitter, view.blur) == ((0.08, 1.0), 0.5, 64, 0.0, 0.0)


def test_tasks_and_options_are_read_or_refused() -> None:
    assert parse_tasks(["crops", "crops@places205", "crops@imagenet"]).crops == ["imagenet", "places205"]
    assert parse_tasks(["crops"]).needs_bank
    for wrong in ("crops@", "crops@places", "crop"):
        with pytest.raises(ValueError, match=r"unknown task '.*crops@imagenet, crops@places205"):
            parse_tasks([wrong])
    assert crop_options(None, None, None) is None
    assert crop_options(3, "0.02,1", 0) == CropOptions(epochs=3, rates=(0.02, 1.0), untrained=0)
    for rates in ("", "0.1,x", "0.1,0.1", "-1", "nan"):
        with pytest.raises(ValueError, match="expected different learning rates > 0"):
            crop_options(None, rates, None)
