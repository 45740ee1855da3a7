"""Training with labels: what is refused before it starts, and that the yardstick learns."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from viewmill.engine.checks import check_labels
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.evaluation.evaluate import evaluate
from viewmill.engine.samples import order_of_run
from viewmill.engine.step import train_step
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.methods.method import MethodLoss
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import tiny_config, tiny_data_set


@pytest.fixture(scope="module")
def partly_labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four pictures, and two pictures at the root, which have no class."""
    folder = tmp_path_factory.mktemp("partly")
    names = [f"class{index % 3}/{index:02d}.png" for index in range(12)] + ["a.png", "b.png"]
    for number, name in enumerate(names):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 5 * number, np.uint8)).save(path)
    convert(folder / "pictures", folder / "data", workers=1)
    return folder / "data"


def supervised(num_classes: int, **changes: Any) -> RunConfig:
    method = {"name": "supervised", "num_classes": num_classes}
    views = {"preset": "supervised@32", "executor": "host", "num_threads": 1}
    return tiny_config(method=method, views=views, **changes)


def checked(config: RunConfig, data: Path) -> None:
    with Dataset.open(data) as dataset:
        check_labels(config, dataset, order_of_run(config, dataset))


def test_a_sample_without_label_is_refused_by_its_key(partly_labelled: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'[ab]' \(id \d+\) and 1 more of .* has none; choose .* data\.subset"
    ):
        checked(supervised(3), partly_labelled)


def test_a_subset_of_the_labelled_samples_is_taken(partly_labelled: Path, tmp_path: Path) -> None:
    with Dataset.open(partly_labelled) as dataset:
        labelled = np.flatnonzero(dataset.manifest["label"] >= 0)
    np.save(tmp_path / "labelled.npy", labelled)
    checked(supervised(3, data={"subset": str(tmp_path / "labelled.npy")}), partly_labelled)


def test_another_number_of_classes_is_refused_with_both(partly_labelled: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_classes=10, but .* has 3 classes; set method\.num_classes=3"):
        checked(supervised(10), partly_labelled)


def test_methods_without_labels_take_any_samples(partly_labelled: Path) -> None:
    checked(tiny_config(), partly_labelled)


@pytest.mark.parametrize("needs_labels", [False, True])
def test_labels_reach_a_method_that_needs_them_and_no_other(needs_labels: bool) -> None:
    method, engine = MagicMock(needs_labels=needs_labels), MagicMock()
    method.loss.side_effect = lambda z, *rest: MethodLoss(z.sum(), {})
    engine.module = MagicMock(method=method, side_effect=lambda views: torch.zeros(1, len(views[0]), 3))
    engine.forward_aside = engine.module
    labels, images = torch.tensor([3, 1]), torch.zeros(1, 3, 4, 4)
    step = train_step(engine, None, [[images], [images]], {}, labels=labels)
    _, _, targets = method.loss.call_args.args
    assert targets is step.targets
    assert torch.equal(targets, labels) if needs_labels else targets is None


@pytest.mark.slow
def test_a_supervised_run_learns_its_classes_and_is_evaluated_as_any(tmp_path: Path, world: World) -> None:
    data, unseen = tiny_data_set(tmp_path / "a", 64), tiny_data_set(tmp_path / "b", 96, first=64)
    config = supervised(4, epochs=16, batch_size=16, optimizer={"lr": 5e-3})
    train(config, data, tmp_path / "run", world=world)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    # Four classes of coloured waves: chance is 0.25; its standard error over 8 batches of 16 is 0.04.
    assert np.mean([line["batch_top1"] for line in lines[-8:]]) > 0.5
    assert json.loads((tmp_path / "run" / "export" / "config.json").read_text())["method"] == "supervised"
    with Dataset.open(data) as bank, Dataset.open(unseen) as queries:
        tasks = ["knn@5", "linear"]
        entries = evaluate(
            tmp_path / "run", bank, queries, tasks, world=world, executor="host", num_threads=1
        )
    details = json.loads((tmp_path / "run" / "evaluation" / "linear.json").read_text())
    own = details["tasks"][0]["contenders"]["trained"]["own_classifier"]
    # Chance is 0.25, one standard error of 96 images 0.044.
    assert min(entries[0]["trained"], entries[1]["trained"], own["top1"]) > 0.36
