"""`viewmill inspect --html --plots`: complete, offline, of bounded size, and unmoved by hostile names."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from viewmill.shards.convert import convert
from viewmill.shards.errors import ShardError
from viewmill.shards.manifest import RECORD, Dataset
from viewmill.shards.survey import (
    class_mixing,
    duplicate_groups,
    quarantined_inputs,
    survey,
)
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.html_page import shown
from viewmill.tools.inspection.bins import MAX_BINS, bin_edges, counted, nice_ticks, thinned
from viewmill.tools.inspection.charts import (
    Bars,
    Chart,
    Columns,
    Heat,
    Lines,
    charts_of,
    classes_chart,
    left_out,
)
from viewmill.tools.inspection.plots import draw, write_plots

from tests.shards.pictures import encoded, picture
from tests.shards.restating import describe_again
from tests.tools.test_report import Page

EVIL = "<script>alert(1)<img src=http:x>&lt;b&gt;"
FORMULA = "$\\frac$"
TURNED = "\u202egnp"  # turns the text after it around
SMALL = ["--preset", "hydes@32"]


def write_source(folder: Path) -> Path:
    """Three classes of hostile names, sizes that all differ, two images twice, and two refused inputs."""
    for number, name in enumerate([EVIL, FORMULA, TURNED]):
        (folder / name).mkdir(parents=True)
        for index in range(4 + 2 * number):
            image = picture(10 * number + index, 20 + index, 30 + 2 * index + number)
            (folder / name / f"{index}.jpg").write_bytes(encoded(image, "JPEG"))
    shutil.copy(folder / EVIL / "0.jpg", folder / FORMULA / "again.jpg")
    shutil.copy(folder / TURNED / "0.jpg", folder / TURNED / "again.jpg")
    (folder / "<b>.txt").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    convert(write_source(root / "source"), root / "ds", shard_bytes=4_000)
    return root / "ds"


@pytest.fixture(scope="module")
def charts(dataset: Path) -> dict[str, Chart]:
    with Dataset.open(dataset) as opened:
        return {chart.name: chart for chart in charts_of(opened, survey(opened))}


@pytest.fixture(scope="module")
def html(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("page") / "page.html"
    assert run_app(app, ["inspect", str(dataset), "--html", str(target), *SMALL]) == 0
    return target.read_text(encoding="utf-8")


def test_the_page_shows_counts_duplicates_refusals_and_what_made_it(html: str, dataset: Path) -> None:
    text = " ".join(Page(html).text.split())
    with Dataset.open(dataset) as opened:
        assert opened.data_set_hash in text
    assert f"viewmill inspect {dataset} --html" in text
    assert "quarantined of 22 inputs" in text
    assert "2 of 2 groups of samples" in text
    assert "in 1 of all the labels differ" in text
    assert "no image" in text
    assert "empty file" in text
    assert "20 of 20 images" in text


def test_the_page_loads_nothing_and_plotly_stands_in_it_once(html: str) -> None:
    for tag, attributes in Page(html).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith("data:image/jpeg;base64,"), (tag, value)
    policy = next(a for tag, a in Page(html).tags if tag == "meta" and a.get("http-equiv"))
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert html.count("plotly.js v") == 1
    assert len(html) < 8_000_000


def test_hostile_names_stay_text_on_the_page(html: str) -> None:
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 3  # numbers, plotly, drawing
    assert [tag for tag, _ in page.tags].count("img") == 20 + 1  # the images and the views
    assert EVIL not in html
    assert "\u202e" not in html
    assert EVIL in page.text
    assert FORMULA in page.text


def test_hostile_names_are_no_markup_in_plotly(html: str) -> None:
    inside = re.search(r'<script type="application/json" id="charts">(.*?)</script>', html, re.DOTALL)
    assert inside is not None
    drawn = next(chart for chart in json.loads(inside.group(1)) if chart["title"] == "Classes")
    assert not any("<" in name or ">" in name for name in drawn["drawing"]["names"])
    assert any(name.startswith("&lt;script&gt;") for name in drawn["drawing"]["names"])
    assert any("&amp;lt;" in name for name in drawn["drawing"]["names"])  # shown as it is, not decoded


def test_the_same_data_set_gives_the_same_page(dataset: Path, html: str, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert run_app(app, ["inspect", str(dataset), "--html", str(target), *SMALL]) == 0
    # Only the command differs, by the page's own name.
    names = [re.sub(r"--html \S+", "", text) for text in (html, target.read_text(encoding="utf-8"))]
    assert names[0] == names[1]


def test_every_sample_is_counted_once_in_every_histogram(charts: dict[str, Chart]) -> None:
    for name in ("shorter_side", "aspect_ratio", "bytes"):
        drawing = charts[name].drawing
        assert isinstance(drawing, Columns)
        assert sum(drawing.heights) == 20
    sizes = charts["sizes"].drawing
    assert isinstance(sizes, Heat)
    assert np.sum(sizes.counts) == 20
    samples = charts["shard_samples"].drawing
    assert isinstance(samples, Columns)
    assert sum(samples.heights) == 20


def test_bars_name_classes_duplicates_and_refusals(charts: dict[str, Chart]) -> None:
    assert charts["classes"].drawing == Bars(["\\u202egnp", FORMULA, shown(EVIL, 36)], [9, 7, 4])
    assert charts["duplicates"].drawing == Bars(["2 times"], [2])
    refusals = charts["quarantine"].drawing
    assert isinstance(refusals, Bars)
    assert dict(zip(refusals.names, refusals.values, strict=True)) == {"empty file": 1, "no image": 1}


def test_many_classes_become_a_curve_of_bounded_length(dataset: Path) -> None:
    with Dataset.open(dataset) as opened:
        found = survey(opened)
    many = {f"class {number}": 10_000 - number for number in range(10_000)}
    drawing = classes_chart(type(found)(**{**vars(found), "per_class": many})).drawing
    assert isinstance(drawing, Lines)
    assert len(drawing.x) <= 500
    assert (drawing.x[0], drawing.x[-1]) == (1, 10_000)
    assert drawing.curves["samples"][-1] == 1


def test_plots_are_pictures_named_after_their_charts(charts: dict[str, Chart], tmp_path: Path) -> None:
    names = ["sizes", "classes", "class_mixing"]
    written = write_plots([charts[name] for name in names], tmp_path / "plots", "caption")
    assert [path.name for path in written] == [f"{name}.png" for name in names]
    for path in written:
        with Image.open(path) as plot:
            assert plot.width == 960
            assert len(set(plot.convert("L").resize((96, 60)).tobytes())) > 3  # something is drawn


@pytest.mark.slow
def test_the_command_writes_a_plot_for_each_chart(
    dataset: Path, charts: dict[str, Chart], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["inspect", str(dataset), "--plots", str(tmp_path / "plots"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"]["left_out"] == []
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == set(charts)


def test_a_plot_that_has_nothing_to_show_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "0.png").write_bytes(encoded(picture(0), "PNG"))
    convert(tmp_path / "one", tmp_path / "small")
    with Dataset.open(tmp_path / "small") as opened:
        missing = left_out(charts_of(opened, survey(opened)))
    assert [reason.partition(":")[0] for reason in missing] == ["class_mixing", "duplicates", "quarantine"]


def test_a_plot_carries_its_caption_and_shows_names_as_they_are(charts: dict[str, Chart]) -> None:
    figure = draw(charts["classes"], "photos, data set hash 0123, viewmill inspect photos")
    assert figure.get_supxlabel().startswith("photos, data set hash 0123")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert FORMULA in labels


def test_shards_in_the_order_of_classes_stand_out(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "in" / name).mkdir(parents=True)
        for index in range(12):
            data = encoded(picture(ord(name) + 100 * index), "PNG")
            (tmp_path / "in" / name / f"{index:02d}.png").write_bytes(data)
    convert(tmp_path / "in", tmp_path / "ds", shuffle_seed=None, shard_bytes=9_000)
    with Dataset.open(tmp_path / "ds") as opened:
        mixing = class_mixing(opened)
        rows, labels = opened.manifest.copy(), opened.labels(range(36))
    assert mixing is not None
    expected = [plain_distance(labels, labels[rows["shard"] == s]) for s in range(rows["shard"].max() + 1)]
    np.testing.assert_allclose(mixing.measured, expected, atol=1e-12)
    assert np.median(mixing.measured) > 1.3 * np.median(mixing.shuffled)


def plain_distance(everything: np.ndarray, some: np.ndarray) -> float:
    """Half the sum of the differences of shares, class by class."""
    return float(sum(abs(np.mean(some == c) - np.mean(everything == c)) for c in np.unique(everything)) / 2)


def test_duplicates_are_listed_with_keys_and_labels(dataset: Path) -> None:
    with Dataset.open(dataset) as opened:
        groups = duplicate_groups(opened, 50)
        assert len(duplicate_groups(opened, 1)) == 1
        for group in groups:
            ids = [opened.keys(range(20)).index(key) for key in group.keys]
            assert opened.labels(ids).tolist() == list(group.labels)
            assert len(set(opened.read(ids))) == 1
    assert sorted((group.count, group.conflicting) for group in groups) == [(2, False), (2, True)]


def test_refusals_are_listed_up_to_a_number(dataset: Path) -> None:
    found = quarantined_inputs(dataset, 200)
    assert {(entry.source, entry.reason.partition(":")[0]) for entry in found} == {
        ("<b>.txt", "no image"),
        ("empty.jpg", "empty file"),
    }
    assert quarantined_inputs(dataset, 1) == found[:1]


def test_a_page_without_a_folder_is_refused_before_the_work(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, name in (("--html", "no/page.html"), ("--plots", "no/plots")):
        assert run_app(app, ["inspect", str(dataset), option, str(tmp_path / name)]) == 2
        assert "make it first" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("height", -1), ("size", 0), ("shard", 99)])
def test_an_impossible_row_is_named_and_not_counted(
    dataset: Path, tmp_path: Path, field: str, value: int
) -> None:
    shutil.copytree(dataset, tmp_path / "ds")
    rows = np.fromfile(tmp_path / "ds" / "manifest.bin", RECORD)
    rows[field][3] = value
    rows.tofile(tmp_path / "ds" / "manifest.bin")
    describe_again(tmp_path / "ds", "manifest.bin")
    with (
        Dataset.open(tmp_path / "ds") as opened,
        pytest.raises(ShardError, match="sample 3 has an impossible"),
    ):
        survey(opened)


@pytest.mark.parametrize(
    "values", [[7], [1, 2, 3], [1, 64_000_000], [300, 400, 500, 100_000], list(range(1, 99))]
)
def test_bins_hold_every_value_once_and_are_few(values: list[int]) -> None:
    edges, log = bin_edges(np.array(values))
    assert counted(np.array(values), edges) == np.histogram(values, edges)[0].tolist()
    assert sum(counted(np.array(values), edges)) == len(values)
    assert 1 <= len(edges) - 1 <= MAX_BINS
    assert (np.diff(edges) >= 1).all()
    ticks = nice_ticks(edges.tolist(), log=log)
    assert 1 <= len(ticks) <= 12
    assert all(edges[0] <= place <= edges[-1] for place, _ in ticks)


def test_thinning_keeps_both_ends() -> None:
    assert thinned(3) == [0, 1, 2]
    long = thinned(123_456)
    assert (long[0], long[-1], len(long)) == (0, 123_455, 500)
    assert (np.diff(long) > 0).all()


def test_a_long_name_is_cut_in_its_middle() -> None:
    assert shown("a" * 300 + ".jpg", 20) == "aaaaaaaaa…aaaaa.jpg"
    assert shown("tab\tand\udcff") == "tab\\tand\\udcff"


def numbers_in(tree: Any) -> int:
    """How many numbers a chart holds."""
    if isinstance(tree, dict):
        return sum(map(numbers_in, tree.values()))
    if isinstance(tree, (list, tuple)):
        return sum(map(numbers_in, tree))
    return int(isinstance(tree, (int, float)))


def test_charts_do_not_grow_with_the_samples() -> None:
    from viewmill.tools.inspection.charts import aspect_chart, bytes_chart, side_chart, sizes_chart

    rng = np.random.default_rng(0)
    rows = np.zeros(300_000, RECORD)
    for name, scale in (("width", 500), ("height", 400), ("size", 100_000)):
        rows[name] = np.maximum(1, rng.lognormal(np.log(scale), 0.5, len(rows)))
    for chart in (sizes_chart(rows), side_chart(rows), aspect_chart(rows), bytes_chart(rows)):
        assert numbers_in(asdict(chart.drawing)) < 2_000
