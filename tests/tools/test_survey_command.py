"""`viewmill inspect` and `preview`: what they count, and the pictures they draw."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.views import preset
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.contact_sheet import GAP, contact_sheet, fitted, spread_ids

from tests.shards.pictures import encoded, picture

SIZES = {"a/1.png": (40, 20), "a/2.png": (30, 30), "b/3.png": (20, 60)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        (source / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / name)
    (source / "a" / "notes.txt").write_text("no image")
    target = tmp_path_factory.mktemp("dataset") / "ds"
    convert(source, target)
    return target


def test_json_holds_counts_sizes_classes_and_refusals(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["inspect", str(dataset), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_samples"], found["num_inputs"], found["quarantined"]) == (3, 4, 1)
    assert found["per_class"] == {"a": 2, "b": 1}
    assert found["unlabelled"] == 0
    assert (found["width"]["least"], found["width"]["largest"]) == (20, 40)
    assert sum(found["reasons"].values()) == 1


def test_duplicates_are_counted_with_those_that_disagree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [encoded(picture(number), "PNG") for number in range(3)]
    names = {"a/0": 0, "a/1": 0, "b/0": 0, "b/1": 1, "b/2": 1, "b/3": 2}
    for name, number in names.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(images[number])
    convert(tmp_path / "in", tmp_path / "ds")
    assert run_app(app, ["inspect", str(tmp_path / "ds"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["duplicates"]
    assert (found["groups"], found["extra"], found["conflicting"]) == (2, 3, 1)
    assert set(found["largest"]) == {"a/0", "a/1", "b/0"}
    assert run_app(app, ["inspect", str(tmp_path / "ds")]) == 0
    assert "3 in 2 groups, 1 of them with different" in capsys.readouterr().out


def test_a_data_set_without_duplicates_says_so(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["inspect", str(dataset), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["duplicates"] == {"groups": 0, "extra": 0, "conflicting": 0, "largest": [], "times": {}}
    assert (found["aspect"]["least"], found["aspect"]["largest"]) == (333, 2000)


def test_the_tables_name_classes_and_the_reason_of_a_refusal(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["inspect", str(dataset)]) == 0
    shown = capsys.readouterr().out
    assert "3" in shown
    assert "66.7%" in shown  # of class a
    assert "no image" in shown


def test_the_contact_sheet_has_a_row_an_image_and_a_column_a_view(dataset: Path, tmp_path: Path) -> None:
    png = tmp_path / "sheet.png"
    assert run_app(app, ["inspect", str(dataset), "--png", str(png), "--preset", "hydes@32"]) == 0
    with Image.open(png) as sheet:
        columns = [32, 32, 32, *[16] * 6]  # the original, two global and six local views
        assert sheet.size == (sum(columns) + GAP * (len(columns) + 1), 3 * (32 + GAP) + GAP)


def test_the_original_on_the_sheet_is_the_image(dataset: Path) -> None:
    with Dataset.open(dataset) as opened:
        square = next(i for i in range(3) if opened.sizes([i])[0].tolist() == [30, 30])
        sheet = contact_sheet(opened, np.array([square]), preset("hydes@30"))
        key = opened.keys([square])[0]
    assert key == "a/2"
    pixels = np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(sheet)[GAP : GAP + 30, GAP : GAP + 30], pixels)


def test_the_views_on_the_sheet_are_those_of_the_plan(dataset: Path) -> None:
    spec, ids = preset("eval@14"), np.array([0])
    with Dataset.open(dataset) as opened:
        plan = ViewPlanner(spec, 0).draw(0, ids, opened.sizes(ids))
        sheet = np.asarray(contact_sheet(opened, ids, spec))
        from viewmill.shards.images import decode_rgb

        rgb = decode_rgb(opened.read(ids)[0])
    top, left, side = int(plan.top[0, 0]), int(plan.left[0, 0]), int(plan.height[0, 0])
    crop = Image.fromarray(rgb[top : top + side, left : left + side])
    expected = np.asarray(crop.resize((14, 14), Image.Resampling.BILINEAR)).astype(np.int64)
    found = sheet[GAP : GAP + 14, 2 * GAP + 14 : 2 * GAP + 28]
    assert np.abs(found - expected).max() <= 1  # Pillow rounds twice on whole numbers


def test_seed_and_epoch_change_the_views(dataset: Path) -> None:
    with Dataset.open(dataset) as opened:
        sheets = [
            contact_sheet(opened, np.arange(3), preset("hydes@32"), seed=seed, epoch=epoch).tobytes()
            for seed, epoch in [(0, 0), (0, 0), (1, 0), (0, 1)]
        ]
    assert sheets[0] == sheets[1]
    assert len(set(sheets)) == 3


def test_preview_draws_the_sample_with_this_key(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png = tmp_path / "b.png"
    arguments = ["preview", str(dataset), "b/3", "--png", str(png), "--preset", "hydes@32", "--json"]
    assert run_app(app, arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["class"], found["width"], found["height"]) == ("b", 20, 60)
    assert png.stat().st_size > 0


def test_a_key_that_is_not_there_is_answered_with_the_nearest(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["preview", str(dataset), "b/33"]) == 2
    assert "no sample has the key 'b/33'; near it are: b/3" in capsys.readouterr().err


def test_a_picture_keeps_its_shape_when_it_is_fitted() -> None:
    assert fitted(np.zeros((20, 40, 3), dtype=np.uint8), 96).size == (96, 48)


def test_ids_are_spread_over_the_data_set() -> None:
    assert spread_ids(100, 4).tolist() == [0, 25, 50, 75]
    assert spread_ids(3, 10).tolist() == [0, 1, 2]


def test_preview_names_a_damaged_manifest(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(dataset, tmp_path / "copy")
    content = bytearray((copy / "manifest.parquet").read_bytes())
    content[-20:] = bytes(20)
    (copy / "manifest.parquet").write_bytes(content)
    assert run_app(app, ["preview", str(copy), "b/3", "--png", str(tmp_path / "x.png")]) == 1
    said = capsys.readouterr().err
    assert "manifest.parquet: the keys cannot be read" in said
    assert said.count("\n") == 1
