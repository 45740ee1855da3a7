"""`viewmill segment` and the sheet that it draws."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.engine.evaluation.dense import pixel_probe
from viewmill.engine.evaluation.dense.pairs import Labelled
from viewmill.engine.evaluation.dense.segmentation import Shown
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.mask_sheet import GAP, HEIGHT, IGNORED, LINE, colored, mask_sheet, palette
from viewmill.tools.segment_command import EXAMPLE

from tests.engine.evaluation.dense.scenes import export_of, scene, voc_folder

CLASSES = ("ground", "red", "stripes")


def test_the_example_runs_on_a_voc_folder_and_leaves_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pixel_probe, "EPOCHS", 1)
    voc = voc_folder(tmp_path / "VOC2012", train=4, test=2)
    places = {"RUN": str(export_of(tmp_path / "run", "test_vit")), "VOCdevkit/VOC2012": str(voc), "512": "64"}
    words = [places.get(word, word) for word in EXAMPLE.split()[1:]]
    assert run_app(app, [*words, "--out", str(tmp_path), "--device", "cpu", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["task"] == "segmentation"
    folder = tmp_path / "evaluation" / "segmentation"
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height > 2 * HEIGHT
    [task] = json.loads((folder / "segmentation.json").read_text())["tasks"]
    assert task["classes"][1] == "aeroplane"
    assert list(task["stages"]) == ["blocks.0", "blocks.2", "blocks.3", "blocks.5"]
    # What was trained is kept, so the same for people takes no training.
    assert run_app(app, [*words, "--out", str(tmp_path), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "segmentation, 2 images" in printed
    assert "mean iou" in printed
    assert "frequent class" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "nowhere"], "nowhere: neither a folder"),
        (["--data", "."], "train.txt: there is no such file"),
        (["--data", "table.tsv"], "a table does not say what its masks mean; give --classes"),
        (["--data", "table.tsv", "--classes", "a,b", "--ignore", "1"], "the ignored value 1 must lie in"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "a.png", "b.jpg", "b.png"):
        Path(name).write_bytes(b"")
    Path("table.tsv").write_text("split\timage\tmask\ntrain\ta.jpg\ta.png\nval\tb.jpg\tb.png\n")
    assert run_app(app, ["segment", "RUN", *words]) == 2
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count("\n") == 1


def test_the_palette_is_vocs() -> None:
    # Background, aeroplane, bicycle, person and the last, as VOC's masks store them.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    found = palette(256)
    assert {number: tuple(found[number].tolist()) for number in known} == known
    assert len(np.unique(found, axis=0)) == 256


def test_what_is_ignored_has_a_colour_of_its_own() -> None:
    mask = np.array([[0, 2], [255, 1]], np.uint8)
    made = colored(mask, 3)
    assert made[1, 0].tolist() == list(IGNORED)
    assert made[0, 1].tolist() == palette(3)[2].tolist()


def test_the_sheet_shows_the_pictures_in_rows_and_their_masks_in_columns() -> None:
    image, mask = scene(0, HEIGHT, 120)
    data = Labelled("scenes", [], [], CLASSES, 255)
    shown = [Shown("a", image, mask, np.full_like(mask, 2), np.ones_like(mask))] * 2
    sheet = np.array(mask_sheet(shown, data))
    top, lefts = GAP + LINE, [GAP + column * (120 + GAP) for column in range(4)]
    cells = [sheet[top : top + HEIGHT, left : left + 120] for left in lefts]
    np.testing.assert_array_equal(cells[0], image)
    np.testing.assert_array_equal(cells[1], colored(mask, 3))
    assert (cells[2] == palette(3)[2]).all()
    assert (cells[3] == palette(3)[1]).all()
    second = sheet[top + HEIGHT + GAP :][:HEIGHT, lefts[0] : lefts[0] + 120]
    np.testing.assert_array_equal(second, image)
