"""Crops as a task of an evaluation: what stands in the summary and details, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.crops import training
from viewmill.engine.evaluation.crops.protocol import PROTOCOLS, CropOptions
from viewmill.engine.evaluation.evaluate import evaluate
from viewmill.engine.export import export_backbone
from viewmill.engine.world import World
from viewmill.pipelines.plans.spec import IMAGENET_MEAN, IMAGENET_STD
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.engine.tiny import tiny_data_set

ALONE = World(0, 1, 0, torch.device("cpu"))
SETTINGS: dict[str, Any] = {"world": ALONE, "executor": "reference", "num_threads": 1}
SHORT = CropOptions(epochs=2, rates=(0.02, 0.3))


class Places(NamedTuple):
    backbone: Path
    train: Path
    test: Path


class Sets(NamedTuple):
    train: Dataset
    test: Dataset


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A small backbone that nothing trained, 40 pictures of four classes, and 9 others."""
    folder = tmp_path_factory.mktemp("crops_task")
    torch.manual_seed(7)
    weights = build_backbone("test_resnet", image_size=32).state_dict()
    about: dict[str, Any] = {"backbone": "test_resnet", "stem": "imagenet", "image_size": 32, "step": 3}
    about |= {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    export_backbone({f"backbone.{name}": value for name, value in weights.items()}, about, folder / "export")
    return Places(
        folder / "export", tiny_data_set(folder / "train", 40), tiny_data_set(folder / "test", 9, first=100)
    )


@pytest.fixture(scope="module")
def sets(places: Places) -> Iterator[Sets]:
    with Dataset.open(places.train) as known, Dataset.open(places.test) as asked:
        yield Sets(known, asked)


def details(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "evaluation" / "crops.json").read_text())
    return found


@pytest.fixture(scope="module")
def evaluated(places: Places, sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    out = tmp_path_factory.mktemp("evaluated_crops")
    return out, evaluate(places.backbone, *sets, ("crops",), out=out, crops=SHORT, **SETTINGS)


def test_the_summary_has_the_trained_and_one_untrained_backbone(evaluated: tuple[Path, list[Any]]) -> None:
    out, (entry,) = evaluated
    assert (entry["task"], entry["n"], entry["trained_top5"]) == ("crops@imagenet", 9, None)
    assert set(entry["floors"]) == {"raw_pixels", "histogram"}
    (task,) = details(out)["tasks"]
    assert list(task["contenders"]) == ["trained", "untrained seed 0"]
    assert task["protocol"] == PROTOCOLS["imagenet"].changed(SHORT).id
    assert (task["crops"], task["forwards_a_backbone"]) == ("imagenet@32", 80)
    for name, one in task["contenders"].items():
        assert one["held_out"] == 8
        assert set(one["held_out_top1"]) == {"0.02", "0.3"}
        assert one["published_rate"]["rate"] == 0.02
        assert one["top1"] == entry["trained" if name == "trained" else "untrained"]
    assert json.loads((out / "evaluation" / "summary.json").read_text()) == [entry]


def test_what_has_been_trained_is_not_trained_again(
    places: Places, sets: Sets, evaluated: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, entries = evaluated
    before, lines = details(out), list[str]()
    monkeypatch.setattr(training, "_batches", None)  # whoever calls it fails
    again = evaluate(places.backbone, *sets, ("crops",), out=out, crops=SHORT, say=lines.append, **SETTINGS)
    assert again == entries
    assert details(out) == before
    assert lines == [
        "crops@imagenet: epochs 2 x images 40 x backbones 2 (trained, untrained seed 0) = 160 forwards of 32 "
        "pixels; 0 of them to do, kept after every epoch"
    ]


def test_an_untrained_backbone_whose_features_were_cached_has_its_batchnorm_statistics(
    places: Places, sets: Sets, evaluated: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    evaluate(places.backbone, *sets, ("sgd",), out=tmp_path, **SETTINGS)  # the features of all contenders
    found = evaluate(places.backbone, *sets, ("crops",), out=tmp_path, crops=SHORT, **SETTINGS)
    assert found == evaluated[1]
    assert details(tmp_path) == details(evaluated[0])


def test_without_an_untrained_backbone_there_is_no_difference(
    places: Places, sets: Sets, tmp_path: Path
) -> None:
    options = CropOptions(epochs=2, rates=(0.01,), untrained=0)
    names = ["class3", "class1"]
    (entry,) = evaluate(
        places.backbone,
        *sets,
        ("crops@places205",),
        out=tmp_path,
        crops=options,
        classes=names,
        **SETTINGS,
    )
    nothing = ("untrained", "untrained_top5", "standard_error", "z_score")
    assert [entry[name] for name in nothing] == [None] * 4
    (task,) = details(tmp_path)["tasks"]
    assert (task["best_untrained"], task["trained_minus_untrained"]) == (None, None)
    assert task["milestones"] == [1, 1]
    # One rate chooses nothing; of four classes two are left, with ten images each.
    assert task["contenders"]["trained"]["rate"] == 0.01
    assert "held_out" not in task["contenders"]["trained"]
    assert task["forwards_a_backbone"] == 2 * 20
    assert entry["n"] == sum(int(label % 2) for label in sets.test.labels(range(9)))


def test_a_subset_of_the_classes_sees_their_images_alone(places: Places, sets: Sets, tmp_path: Path) -> None:
    seen: list[int] = []
    batches = training._batches

    def noted(*given: Any) -> Iterator[Any]:
        for batch in batches(*given):
            seen.extend(batch.labels.tolist())
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_batches", noted)
        options = CropOptions(epochs=1, rates=(0.01,), untrained=0)
        evaluate(
            places.backbone,
            *sets,
            ("crops",),
            out=tmp_path,
            crops=options,
            classes=["class3", "class1"],
            **SETTINGS,
        )
    assert sorted(seen) == [1] * 10 + [3] * 10


def test_data_sets_that_do_not_fit_are_refused_in_one_line(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = places.train.parent / "pictures"
    for name, chosen in (("unlabelled", range(0, 40, 3)), ("three_classes", range(25))):
        found = sorted(pictures.rglob("*.png"))  # ten of a class
        for number in chosen:
            target = tmp_path / f"{name}_pictures" / found[number].parent.name / found[number].name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(found[number].read_bytes())
    (tmp_path / "unlabelled_pictures" / "stray.png").write_bytes(found[1].read_bytes())
    for name in ("unlabelled", "three_classes"):
        convert(tmp_path / f"{name}_pictures", tmp_path / name)
    tail = ["--tasks", "crops", "--executor", "reference", "--device", "cpu", "--out", str(tmp_path)]
    few = ["--train", str(places.test), "--on", str(places.train)]
    good = ["--train", str(places.train), "--on", str(places.test)]
    for words, expected in (
        (["--train", str(tmp_path / "unlabelled"), "--on", str(places.test)], "1 of 15 images have no label"),
        (["--train", str(tmp_path / "three_classes"), "--on", str(places.test)], "only data has class3"),
        (few, "no class has 5 of the 9; convert more images, or give one rate: --crops-rates 0.02"),
        ([*good, "--crops-rates", "0.1,0"], "expected different learning rates > 0"),
        ([*good, "--crops-epochs", "3", "--tasks", "knn@5"], "add crops to the tasks"),
    ):
        assert run_app(app, ["evaluate", str(places.backbone), *tail, *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert expected in said
        assert said.count("\n") == 1


def test_the_command_tells_the_cost_before_the_figures(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(places.backbone), "--train", str(places.train), "--on", str(places.test)]
    words += ["--tasks", "crops", "--crops-epochs", "1", "--crops-rates", "0.02", "--crops-untrained", "0"]
    words += ["--executor", "reference", "--device", "cpu", "--out", str(tmp_path)]
    assert run_app(app, words) == 0
    shown = capsys.readouterr()
    assert "crops@imagenet" in shown.out
    assert "crops@imagenet: epochs 1 x images 40 x backbones 1 (trained) = 40 forwards" in shown.err
