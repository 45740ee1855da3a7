"""Runs side by side: what stands in a column, what is marked, and which differences are taken."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.cli import app
from viewmill.tools.compare_command import EXAMPLE, read_all
from viewmill.tools.comparison.evaluated import read_evaluated
from viewmill.tools.comparison.figures import Conditions
from viewmill.tools.comparison.published import papers
from viewmill.tools.comparison.side_by_side import compare
from viewmill.tools.console import run_app

KNN, LINEAR, GEOMETRY = "knn-v1/x", "linear-v1/x", "geometry-v1/x"


def write_run(
    folder: Path,
    *,
    top1: float = 0.5,
    n: int = 400,
    classes: int = 10,
    protocol: str = KNN,
    test: str = "aa",
    train: str = "bb",
    config: str = "epochs: 5\nmodel: {backbone: resnet18}\n",
) -> Path:
    """A folder as an evaluation by k-NN and geometry leaves it."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    empty = {"floors": {}, "standard_error": 0.01, "z_score": 1.0}
    scored = {"task": "knn@20", "n": n, "trained": top1, "untrained": 0.25, **empty}
    scored |= {"trained_top5": 0.9, "untrained_top5": None}
    measures = {"anisotropy": {"trained": 0.12, "untrained": None}}
    measured = {"task": "geometry", "n": n, "trained": None, "untrained": None, **empty, "measures": measures}
    write(folder / "evaluation" / "summary.json", [scored, measured])
    about = {"source": "step_000010", "step": 10, "backbone": {"image_size": 96}, "views": "eval@96"}
    about |= {"classes": [str(number) for number in range(classes)]}
    about |= {"data_sets": {"train": {"data_set_hash": train}, "test": {"data_set_hash": test}}}
    write(folder / "evaluation" / "knn.json", {**about, "tasks": [{"task": "knn@20", "protocol": protocol}]})
    tasks = [{"task": "geometry", "protocol": GEOMETRY}]
    write(folder / "evaluation" / "geometry.json", {**about, "tasks": tasks})
    return folder


def write(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree))


def told(paths: list[Path], *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run_app(app, ["compare", *map(str, paths), *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def values_of(found: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    for section in found["sections"]:
        for row in section["rows"]:
            if row["name"] == name and key in row["values"]:
                value: dict[str, Any] = row["values"][key]
                return value
    raise AssertionError(f"{name} has no {key}")


def test_two_runs_of_one_protocol_stand_unmarked_with_their_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", top1=0.6)]
    found = told(runs, capsys=capsys)
    assert [section["title"] for section in found["sections"]] == [
        "top-1 accuracy",
        "top-5 accuracy",
        "geometry",
    ]
    other = values_of(found, "two", "knn@20.top1")
    assert (other["value"], other["marks"], other["protocol"]) == (0.6, "", KNN)
    assert other["standard_error"] == pytest.approx(math.sqrt(0.6 * 0.4 / 400))
    assert values_of(found, "one, untrained", "knn@20.top1")["value"] == 0.25
    (top1,) = [one for one in found["differences"] if one["key"] == "knn@20.top1"]
    assert (top1["run"], top1["first"]) == ("two", "one")
    assert top1["difference"] == pytest.approx(0.1)
    error = math.sqrt(0.25 / 400 + 0.24 / 400)
    assert (top1["error"], top1["z_score"]) == (pytest.approx(error), pytest.approx(0.1 / error))
    assert found["not_compared"] == []


@pytest.mark.parametrize(
    ("change", "accuracy", "geometry"),
    [
        ({"protocol": "knn-v2/x"}, "†", ""),
        ({"test": "cc"}, "‡", "‡"),
        ({"train": "cc"}, "§", ""),
        ({"protocol": "knn-v2/x", "test": "cc", "train": "cc"}, "†‡§", "‡"),
    ],
)
def test_other_conditions_are_marked_and_give_no_difference(
    change: dict[str, Any], accuracy: str, geometry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", **change)]
    found = told(runs, capsys=capsys)
    assert values_of(found, "two", "knn@20.top1")["marks"] == accuracy
    assert values_of(found, "two", "geometry.anisotropy")["marks"] == geometry
    differences = {one["key"] for one in found["differences"]}
    assert "knn@20.top1" not in differences
    assert ("geometry.anisotropy" in differences) == (geometry == "")
    assert {"run": "two", "key": "knn@20.top1", "marks": accuracy} in found["not_compared"]


def test_numbers_without_details_are_not_taken_for_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two")]
    for run in runs:
        (run / "evaluation" / "knn.json").unlink()
    found = told(runs, capsys=capsys)
    value = values_of(found, "two", "knn@20.top1")
    assert (value["protocol"], value["marks"]) == ("not recorded", "†‡")
    assert all(not one["key"].startswith("knn") for one in found["differences"])


def test_papers_rows_are_those_of_the_test_set_and_always_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", n=50_000, classes=1000)
    found = told([run], "--paper", capsys=capsys)
    assert found["papers"] == ["ImageNet-1k"]
    value = values_of(found, "HyDeS, RN50 (HyDeS)", "knn@20.top1")  # the paper names no k
    assert (value["value"], value["marks"]) == (pytest.approx(0.3664), "†")
    assert values_of(found, "IMSVD (IMSVD)", "knn@20.top1")["value"] == pytest.approx(0.67)
    assert values_of(found, "HyDeS (HyDeS)", "geometry.anisotropy")["marks"] == "†"
    papers = [row for part in found["sections"] for row in part["rows"] if row["kind"] == "paper"]
    assert all("†" in value["marks"] for row in papers for value in row["values"].values())
    assert all(row["source"] for row in papers)


def test_a_task_in_a_folder_of_its_own_is_compared_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two")]
    for run, value in zip(runs, (0.4, 0.5), strict=True):
        own = run / "evaluation" / "segmentation"
        own.mkdir()
        measures = {"mean_iou": {"trained": value, "untrained": 0.1}}
        write(own / "summary.json", [{"task": "segmentation", "n": 1449, "measures": measures}])
        task = {
            "task": "segmentation",
            "protocol": "segmentation-v1/x",
            "classes": [str(i) for i in range(21)],
        }
        write(own / "segmentation.json", {"data": {"data_hash": "dd"}, "tasks": [task]})
    found = told(runs, "--paper", capsys=capsys)
    assert values_of(found, "two", "segmentation.mean_iou")["marks"] == ""
    assert "VOC 2012" in found["papers"]  # 21 classes, 1,449 test images
    paper = values_of(found, "HyDeS (HyDeS)", "segmentation.mean_iou")
    assert (paper["value"], paper["marks"]) == (pytest.approx(0.4912), "†")
    assert [one["difference"] for one in found["differences"] if one["key"] == "segmentation.mean_iou"] == [
        pytest.approx(0.1)
    ]


def test_papers_rows_on_other_images_have_a_second_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    assert values_of(told([run], "--paper", capsys=capsys), "BYOL (IMSVD)", "knn@20.top1")["marks"] == "†‡"
    chosen = told([run], "--paper-data", "STL-10", capsys=capsys)
    assert values_of(chosen, "BYOL, RN18 (HyDeS)", "knn@20.top1")["value"] == pytest.approx(0.7714)
    assert chosen["papers"] == ["STL-10"]


def write_crops(run: Path, task: str, protocol: str, *, n: int = 50_000, classes: int = 1000) -> Path:
    """Adds what an evaluation by a classifier of random crops leaves."""
    path = run / "evaluation" / "summary.json"
    scored = {"task": task, "n": n, "trained": 0.65, "untrained": 0.05, "trained_top5": 0.86}
    write(path, [*json.loads(path.read_text()), scored])
    about = {"classes": [str(number) for number in range(classes)]}
    write(run / "evaluation" / "crops.json", {**about, "tasks": [{"task": task, "protocol": protocol}]})
    return run


IMAGENET_AS_PUBLISHED = papers()["imsvd"].same_as["imsvd/linear"]
PLACES_AS_PUBLISHED = papers()["imsvd"].same_as["imsvd/linear-places"]


@pytest.mark.parametrize(
    ("task", "protocol", "marks"),
    [
        ("crops@imagenet", IMAGENET_AS_PUBLISHED, {"IMSVD, 100 epochs (IMSVD)": ""}),
        ("crops@imagenet", "crops-v1/imagenet/chosen-rate", {"IMSVD, 100 epochs (IMSVD)": "†"}),
        ("crops@lightly", "crops-v1/lightly/x", {"IMSVD, 100 epochs (IMSVD)": "†"}),
    ],
)
def test_linear_numbers_of_papers_stand_beside_those_of_crops(
    task: str, protocol: str, marks: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a mark where the paper tells the same protocol; HyDeS names no epochs, rivals none at all."""
    run = write_crops(write_run(tmp_path / "run"), task, protocol)
    found = told([run], "--paper", capsys=capsys)
    assert found["papers"] == ["ImageNet-1k"]
    for name, expected in {**marks, "HyDeS, RN50 (HyDeS)": "†", "BYOL, 100 epochs (IMSVD)": "†"}.items():
        assert values_of(found, name, f"{task}.top1")["marks"] == expected, name
    assert values_of(found, "IMSVD, 100 epochs (IMSVD)", f"{task}.top1")["value"] == pytest.approx(0.694)
    assert values_of(found, "HyDeS, RN50 (HyDeS)", f"{task}.top5")["value"] == pytest.approx(0.8134)


def test_the_column_of_places205_stands_beside_its_crops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    write_crops(run, "crops@places205", PLACES_AS_PUBLISHED, n=20_500, classes=205)
    found = told([run], "--paper", capsys=capsys)
    assert found["papers"] == ["Places205"]
    value = values_of(found, "IMSVD (IMSVD)", "crops@places205.top1")
    assert (value["value"], value["marks"]) == (pytest.approx(0.548), "")
    assert values_of(found, "BT (IMSVD)", "crops@places205.top1")["marks"] == "†"


def test_rows_on_several_data_sets_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told([write_run(tmp_path / "run")], "--paper-data", "all", capsys=capsys)
    names = [row["name"] for row in found["sections"][0]["rows"]]
    assert {"BYOL, RN18 (HyDeS, STL-10)", "BYOL, RN18 (HyDeS, Food-101)"} <= set(names)
    assert len(names) == len(set(names))


def test_settings_that_differ_are_told_and_those_alike_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "epochs: 9\nmodel: {backbone: resnet18}\nseed: 1\n"
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", config=other)]
    assert told(runs, capsys=capsys)["settings"] == {
        "epochs": {"one": "5", "two": "9"},
        "seed": {"one": "-", "two": "1"},
    }


def test_a_folder_without_a_run_does_not_make_every_setting_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two")]
    (runs[1] / "config.yaml").unlink()
    details = runs[1] / "evaluation" / "knn.json"
    details.write_text(details.read_text().replace("eval@96", "eval@224"))
    (runs[1] / "evaluation" / "geometry.json").unlink()
    assert told(runs, capsys=capsys)["settings"] == {"evaluated.views": {"one": "eval@96", "two": "eval@224"}}


def test_numbers_that_are_not_compared_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", train="cc")]
    assert run_app(app, ["compare", *map(str, runs)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "two 2 numbers not compared §" in printed  # top-1 and top-5; geometry learns nothing
    assert "§ learnt from other training images" in printed


def test_measures_with_points_in_their_names_belong_to_their_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    path = run / "evaluation" / "summary.json"
    measures = {"mean.embedding.dim": {"trained": 256, "untrained": None}}
    write(path, [*json.loads(path.read_text()), {"task": "diagnosis", "n": 4, "measures": measures}])
    found = told([run], capsys=capsys)
    assert "diagnosis" in [section["title"] for section in found["sections"]]
    assert values_of(found, "run", "diagnosis.mean.embedding.dim")["value"] == 256


def test_names_stay_whole_in_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    run = write_run(tmp_path / "run", n=50_000, classes=1000)
    assert run_app(app, ["compare", str(run), "--paper"]) == 0
    printed = capsys.readouterr().out
    assert "  CorInfoMax" not in printed  # the run has no linear probe
    assert "  Ours, RN50 (HyDeS workshop) " in printed
    assert max(len(line) for line in printed.splitlines() if "RN50" in line) <= 60


def test_a_run_without_an_evaluation_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, bare = write_run(tmp_path / "run"), tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("epochs: 5\n")
    assert run_app(app, ["compare", str(bare), str(run)]) == 0
    printed = capsys.readouterr().out
    assert f"bare: not evaluated yet; run: viewmill evaluate {bare}" in printed
    assert "50.0 ± 2.5" in printed
    assert told([bare, run], capsys=capsys)["runs"][0]["evaluated"] is False
    assert run_app(app, ["compare", str(bare)]) == 0
    assert "not evaluated yet" in capsys.readouterr().out


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")]
    assert [run.trained.name for run in read_all(runs)] == ["a/run", "b/run"]


class Tags(HTMLParser):
    """What stands open in a page, and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_holds_marks_and_sources_loads_nothing_and_escapes_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "compare.html"
    places = {"RUN": write_run(tmp_path / "<b>run"), "OTHER": write_run(tmp_path / "other")}
    words = [str(places.get(word, word)) for word in EXAMPLE.replace("compare.html", str(target)).split()[1:]]
    assert run_app(app, words) == 0
    assert f"page: {target}" in capsys.readouterr().out
    text = target.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.links == []
    assert not {"script", "link", "img", "b"} & set(tags.names)
    assert "<b>run" in tags.texts
    assert "†‡" in tags.texts
    assert any("HyDeS: hyperspherical density shaping, Table I, ImageNet-1k" in one for one in tags.texts)
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("evaluation/summary.json", "[{", "not JSON"),
        ("evaluation/summary.json", "{}", "expected a JSON list"),
        ("evaluation/knn.json", "[]", "expected a JSON dict"),
        ("config.yaml", "a: [", "no YAML"),
        ("config.yaml", "- a", "expected a YAML mapping"),
    ],
)
def test_a_damaged_file_is_named(
    file: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    (run / file).write_text(content)
    assert run_app(app, ["compare", str(run)]) == 1
    line = capsys.readouterr().err
    assert str(run / file) in line
    assert words in line
    assert line.count("\n") == 1


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "evaluation" / "summary.json"
    path.write_text(path.read_text().replace('"trained": 0.12', '"trained": NaN'))
    figures = read_evaluated(run, "run").trained.figures
    assert set(figures) == {"knn@20.top1", "knn@20.top5"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{missing}"], "neither a run (no config.yaml) nor an evaluation"),
        (["{run}", "{run}"], "is given twice"),
        (["{run}", "--paper-data", "ImageNet-9"], "no such data set; one of STL-10"),
        (["{run}", "--html", "{missing}/page.html"], "there is no folder"),
        ([], "RUN"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    filled = [word.format(run=run, missing=tmp_path / "missing") for word in words]
    assert run_app(app, ["compare", *filled]) == 2
    line = capsys.readouterr().err
    assert expected in line
    assert line.count("\n") == 1


def test_data_of_a_paper_is_known_by_its_size_alone() -> None:
    ours = Conditions("p", "hash", "bank", (1000, 50_000))
    assert Conditions("p", "ImageNet-1k", None, (1000, 50_000), True).marks_against(ours) == ""
    assert Conditions("p", "STL-10", None, (10, 8000), True).marks_against(ours) == "‡"
    assert Conditions("p", "LC-25000", None, None, True).marks_against(ours) == "‡"
    assert Conditions("p", "other", "bank", (1000, 50_000)).marks_against(ours) == "‡"


def test_a_comparison_of_nothing_evaluated_has_no_sections(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: 5\n")
    found = compare([read_evaluated(tmp_path, "run")], with_papers=True)
    assert (found.sections, found.differences) == ([], [])
