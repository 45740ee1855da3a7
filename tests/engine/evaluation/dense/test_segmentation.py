"""A segmentation as a whole: what it writes, that ranks agree, that it goes on where it stood."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from viewmill.engine.evaluation.dense import contest, pixel_probe
from viewmill.engine.evaluation.dense.blocks import Made
from viewmill.engine.evaluation.dense.canvas import Canvas
from viewmill.engine.evaluation.dense.overlap import confusion, counts_of, overlap_of
from viewmill.engine.evaluation.dense.pixel_probe import PixelProbe
from viewmill.engine.evaluation.dense.segmentation import Segmentation, segment
from viewmill.engine.world import World

from tests.engine.evaluation.dense.scenes import CLASSES, IGNORED, export_of, opened, voc_folder
from tests.engine.evaluation.dense.segmentation_on_ranks import EPOCHS, probes_in, segmented
from tests.support import run_ranks

ALONE = World(0, 1, 0, torch.device("cpu"))


class Scenes(NamedTuple):
    folder: Path
    source: Path
    out: Path
    found: Segmentation


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_probe, "EPOCHS", EPOCHS)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenes]:
    """14 scenes to learn from and 5 to test, segmented once with an untrained net as the trained one."""
    folder = tmp_path_factory.mktemp("segmentation")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as ranks have: a sum of pixels is taken apart by threads
    voc = voc_folder(folder / "voc", train=14, test=5)
    source = export_of(folder / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_probe, "EPOCHS", EPOCHS)
        found = segment(source, opened(voc), world=ALONE, out=folder / "out", num_threads=1, num_shown=5)
    yield Scenes(voc, source, folder / "out", found)
    torch.set_num_threads(threads)


def details(out: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((out / "evaluation" / "segmentation" / "segmentation.json").read_text())
    return tree


def test_the_summary_has_one_entry_of_figures_with_both_floors(scenes: Scenes) -> None:
    entries = json.loads((scenes.out / "evaluation" / "segmentation" / "summary.json").read_text())
    assert entries == scenes.found.entries
    [entry] = entries
    assert (entry["task"], entry["n"], entry["trained"]) == ("segmentation", 5, None)
    assert list(entry["measures"]) == ["mean_iou", "pixel_accuracy", "class_accuracy"]
    assert set(entry["floors"]) == {"frequent_class", "colours"}
    assert entry["standard_error"] > 0
    for found in entry["measures"].values():
        assert 0 < found["trained"] < 1
        assert 0 < found["untrained"] < 1


def test_the_details_say_what_was_done_and_have_every_class(scenes: Scenes) -> None:
    tree = details(scenes.out)
    [task] = tree["tasks"]
    assert task["protocol"].startswith("segmentation-v1/hypercolumns/standardised/1x1/adamw-0.001/")
    assert task["stages"] == {"layer1": 32, "layer2": 48, "layer3": 192, "layer4": 96}
    assert (task["canvas"], task["ignored"], task["classes"]) == ([64, 64], IGNORED, list(CLASSES))
    assert set(task["iou_by_class"]) == {
        "trained",
        "colours",
        *(f"untrained seed {seed}" for seed in range(3)),
    }
    found = list(task["iou_by_class"]["trained"].values())
    assert np.mean(found) == pytest.approx(task["contenders"]["trained"]["mean_iou"])
    assert tree["views"] == "longer side 64 on 64x64"
    assert set(tree["data"]["pixels_by_class"]["test"]) == set(CLASSES)
    confused = np.array(task["confusion_of_trained"])
    assert confused.sum(axis=1).tolist() == list(tree["data"]["pixels_by_class"]["test"].values())


def test_the_pictures_that_are_shown_are_those_that_were_counted(scenes: Scenes) -> None:
    """All five are shown: their predictions alone must give the figures again."""
    assert [one.name for one in scenes.found.shown] == [f"s{number}" for number in range(1000, 1005)]
    measures = scenes.found.entries[0]["measures"]
    for who in ("trained", "untrained"):
        counts = sum(
            counts_of(
                confusion(
                    torch.from_numpy(getattr(one, who)), torch.from_numpy(one.truth.astype(int)), 3, IGNORED
                )
            )
            for one in scenes.found.shown
        )
        assert isinstance(counts, torch.Tensor)
        # Blocks of four there, one picture here: a pixel between two classes may fall to either.
        assert overlap_of(counts).mean_iou == pytest.approx(measures["mean_iou"][who], abs=2e-3)
    for one in scenes.found.shown:
        assert one.trained.shape == one.truth.shape == one.image.shape[:2]


@pytest.mark.slow  # two ranks import what is heavy
def test_two_ranks_find_the_bits_of_one(scenes: Scenes, tmp_path: Path) -> None:
    first, second = run_ranks(2, segmented, str(scenes.source), str(scenes.folder), str(tmp_path / "two"))
    assert first[0] == second[0] == scenes.found.entries[0]
    alone = probes_in(scenes.out)
    assert len(alone) == 5
    assert first[1].keys() == alone.keys()
    for name, rows in alone.items():
        assert torch.equal(first[1][name], rows), name


def test_an_interrupted_segmentation_goes_on_with_the_next_probe(
    scenes: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = contest.train_probe

    def killed_at_the_third(*args: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        return train(*args)

    monkeypatch.setattr(contest, "train_probe", killed_at_the_third)
    arguments: dict[str, Any] = {"world": ALONE, "out": tmp_path, "num_threads": 1, "num_shown": 1}
    with pytest.raises(KeyboardInterrupt):
        segment(scenes.source, opened(scenes.folder), **arguments)
    assert not (tmp_path / "evaluation" / "segmentation" / "summary.json").exists()
    assert len(probes_in(tmp_path)) == 2
    again = []
    monkeypatch.setattr(contest, "train_probe", lambda *args: again.append(1) or train(*args))
    found = segment(scenes.source, opened(scenes.folder), **arguments)
    assert len(again) == 3
    assert found.entries == scenes.found.entries


def test_a_probe_of_other_data_is_not_taken_from_the_cache(scenes: Scenes, tmp_path: Path) -> None:
    shutil.copytree(scenes.out, tmp_path / "out")
    voc = voc_folder(tmp_path / "voc", train=9, test=2)
    segment(scenes.source, opened(voc), world=ALONE, out=tmp_path / "out", num_threads=1, num_shown=1)
    assert len(probes_in(tmp_path / "out")) == 10


def test_weights_that_diverged_are_refused_before_any_result(scenes: Scenes, tmp_path: Path) -> None:
    weights = load_file(scenes.source / "backbone.safetensors")
    weights["layer1.0.conv1.weight"].fill_(float("nan"))
    source = export_of(tmp_path / "nan", weights=weights)
    with pytest.raises(RuntimeError, match="stage layer1 are not finite"):
        segment(source, opened(scenes.folder), world=ALONE, out=tmp_path, num_threads=1)
    assert not (tmp_path / "evaluation" / "segmentation" / "summary.json").exists()


def test_a_test_picture_whose_features_are_not_finite_is_refused() -> None:
    canvas = Canvas((32, 32), 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    probe = PixelProbe(torch.zeros(3), torch.ones(3), torch.ones(2, 3), torch.zeros(2))
    made = Made([torch.full((1, 3, 8, 8), float("inf"))], [np.zeros((8, 8), np.uint8)])
    with pytest.raises(RuntimeError, match="features of test pictures are not finite"):
        list(contest.predictions(probe, made, canvas))


def test_a_source_without_a_run_needs_a_folder_for_the_results(scenes: Scenes) -> None:
    with pytest.raises(ValueError, match="belongs to no run; say where the evaluation goes with --out"):
        segment(scenes.source, opened(scenes.folder), world=ALONE)
