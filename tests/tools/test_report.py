"""`viewmill report`: complete, offline, and unmoved by hostile text."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from viewmill.engine.config import load_config, save_config
from viewmill.shards.convert import convert
from viewmill.shards.info import read_info
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.report import charts, evaluation_row, render
from viewmill.tools.run_reader import MAX_POINTS, read_run

EVIL = "</script><script>alert(1)</script><img src=http://evil.example/x>"
ENTRY = {
    "task": "knn20",
    "n": 1000,
    "trained": 0.5,
    "untrained": 0.3,
    "floors": {"pixels": 0.2},
    "standard_error": 0.02,
}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data + " "


def write_run(folder: Path, *, steps: int = 3, text: str = "", evaluation: list[Any] | None = None) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    (folder / "checkpoints" / "step_00000003").mkdir(parents=True)
    (folder / "checkpoints" / "step_00000003" / "weights").write_bytes(b"0" * 2_000_000)
    save_config(load_config("hydes_tiny"), folder / "config.yaml")
    lines = [
        {
            "step": s,
            "samples": 32 * s,
            "time_s": 2.0 * s,
            "loss": 1.0 / s,
            f"x{text}": 1.0,
            "images_per_s": 16.0,
        }
        for s in range(1, steps + 1)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(
        folder / "events.jsonl", [{"event": "start", "step": 0}, {"event": "end", "step": steps, "x": text}]
    )
    (folder / "environment.json").write_text(
        json.dumps({"cpu": f"model {text}", "packages": {"torch": "2.0"}})
    )
    (folder / "evaluation" / "summary.json").write_text(
        json.dumps([ENTRY] if evaluation is None else evaluation)
    )
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def page_of(folder: Path) -> tuple[str, Page]:
    html = render(read_run(folder), None)
    return html, Page(html)


def test_the_page_shows_every_part_of_the_run(tmp_path: Path) -> None:
    _, page = page_of(write_run(tmp_path / "run"))
    for expected in (
        "finished",
        "knn20",
        "50.0 %",
        "30.0 %",
        "pixels",
        "+10.0 standard errors",
        "hydes@64",  # of the configuration
        "packages.torch",
        "2.0 MB",  # of the checkpoint
        "step_00000003",
        "16",  # images/s
    ):
        assert expected in page.text


def test_figures_without_an_accuracy_have_a_table_of_their_own(tmp_path: Path) -> None:
    entry = {
        "task": "geometry",
        "n": 7700,
        "trained": None,
        "measures": {
            "center_norm": {"trained": 0.375, "untrained": None},
            "mean.embedding.dim": {"trained": 32, "untrained": None},
            EVIL: {"trained": EVIL},
            "x": 3,
        },
    }
    html, page = page_of(write_run(tmp_path / "run", evaluation=[entry]))
    for expected in ("geometry", "of 7,700 images", "center norm", "0.375"):
        assert expected in page.text
    assert "mean.<wbr>embedding.<wbr>dim" in html  # on a telephone it breaks there, not within a word
    assert EVIL.split(".")[0] not in html  # before its first dot, where a name may be broken
    assert "standard errors" not in page.text
    assert "Not evaluated yet" not in page.text


def test_a_segmentation_stands_beside_the_other_evaluations(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "evaluation" / "segmentation").mkdir()
    measures = {"mean_iou": {"trained": 0.4375, "untrained": 0.25}}
    (run / "evaluation" / "segmentation" / "summary.json").write_text(
        json.dumps([{"task": "segmentation", "n": 50, "measures": measures}])
    )
    sheet = run / "evaluation" / "segmentation" / "sheet.png"
    Image.new("RGB", (3, 2)).save(sheet)
    html, page = page_of(run)
    assert base64.b64encode(sheet.read_bytes()).decode() in html
    for expected in ("segmentation", "of 50 images", "mean iou", "0.4375", "+10.0 standard errors"):
        assert expected in page.text
    sheet.write_bytes(b"<script>")
    with pytest.raises(RuntimeError, match=r"sheet.png: no PNG of at most 32 MB"):
        page_of(run)


def test_the_ranks_are_compared_where_there_are_several(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    two = {"step_s": [2.0, 2.0], "data_wait_fraction": [0.1, 0.7], "rank_wait_fraction": [0.6, 0.0]}
    write_lines(run / "ranks.jsonl", [{"step": 1, **two}, {"step": EVIL, **two}, {"step": 3, "step_s": "x"}])
    _, page = page_of(run)
    assert " ".join(page.text.split()).count("1 (waits least) 1.4 s 0.6 s 0.0 s") == 1
    write_lines(run / "ranks.jsonl", [])
    assert "waits least" not in page_of(run)[1].text


def test_the_curves_are_those_of_the_log(tmp_path: Path) -> None:
    html, _ = page_of(write_run(tmp_path / "run"))
    inside = re.search(r'<script type="application/json" id="curves">(.*?)</script>', html, re.DOTALL)
    assert inside is not None
    loss = next(curve for curve in json.loads(inside.group(1)) if curve["title"] == "Loss")
    assert (loss["x"], loss["y"]) == ([1, 2, 3], [1.0, 0.5, 1 / 3])


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    _, page = page_of(write_run(tmp_path / "run"))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith("data:"), (tag, value)
    policy = next(a for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_plotly_stands_in_the_page_once(tmp_path: Path) -> None:
    html, _ = page_of(write_run(tmp_path / "run"))
    assert html.count("plotly.js v") == 1
    assert len(html) < 8_000_000


def test_hostile_names_and_texts_stay_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", text=EVIL, evaluation=[{**ENTRY, "task": EVIL, "floors": {EVIL: 0.1}}]
    )
    (folder / "config.yaml").write_text(f"seed: 0 # {EVIL}\n")
    (folder / "checkpoints" / "step_<b>x").mkdir()
    html, page = page_of(folder)
    plain = render(read_run(write_run(tmp_path / "plain")), None)
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in Page(plain).tags].count(
        "script"
    )
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(tag == "b" and "x" in attributes for tag, attributes in page.tags)
    assert EVIL not in html
    assert page.text.count("alert(1)") >= 4  # configuration, environment, task, floor: shown as what they are


def test_numbers_that_are_none_leave_a_gap(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": null}\n{"step": 2, "loss": NaN}\n'
        '{"step": 3, "loss": "x"}\n{"step": 4, "loss": 2.0}\n'
    )
    (curve,) = charts(read_run(folder))
    assert curve["y"] == (None, None, None, 2.0)


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", steps=10 * MAX_POINTS + 3))
    points = run.curve("loss")
    assert len(points) <= MAX_POINTS + 1
    assert points[0][0] == 1
    assert points[-1][0] == 10 * MAX_POINTS + 3


def test_z_is_the_difference_in_standard_errors() -> None:
    assert evaluation_row(ENTRY)["z"] == pytest.approx(10.0)
    assert evaluation_row({**ENTRY, "standard_error": 0})["z"] is None


def test_a_run_that_has_only_begun_is_reported(tmp_path: Path) -> None:
    save_config(load_config("hydes_tiny"), tmp_path / "config.yaml")
    _, page = page_of(tmp_path)
    assert "not finished" in page.text
    assert "Not evaluated yet" in page.text


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "source").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 30), (90 * number, 20, 200)).save(root / "source" / f"{number}.png")
    convert(root / "source", root / "ds")
    return root / "ds"


def write_position(folder: Path, data_set_hash: str) -> None:
    """The part of a checkpoint that says which data the run reads."""
    manifest = {"state": {"loader": {"data_set_hash": data_set_hash}}}
    (folder / "checkpoints" / "step_00000003" / "MANIFEST.json").write_text(json.dumps(manifest))


def test_the_views_of_the_runs_data_set_are_shown(dataset: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_position(folder, read_info(dataset).data_set_hash)
    assert run_app(app, ["report", str(folder), "--data", str(dataset)]) == 0
    (image,) = [a for tag, a in Page((folder / "report.html").read_text()).tags if tag == "img"]
    picture = base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(picture)) as sheet:  # hydes@64: the original and eight views, two images
        assert sheet.size == (3 * 64 + 6 * 32 + 10 * 4, 2 * 68 + 4)


def test_the_views_of_another_data_set_are_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run")
    write_position(folder, "0123456789abcdef" * 4)
    assert run_app(app, ["report", str(folder), "--data", str(dataset)]) == 2
    assert "the run was trained on 0123456789abcdef" in capsys.readouterr().err


def test_the_command_writes_the_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    assert run_app(app, ["report", str(folder), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert Path(written["report"]) == folder / "report.html"
    assert written["bytes"] == (folder / "report.html").stat().st_size


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["report", str(tmp_path)]) == 2
    assert "no run here (config.yaml is missing)" in capsys.readouterr().err


def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "evaluation" / "summary.json").write_text("[{")
    assert run_app(app, ["report", str(folder)]) == 1
    assert "summary.json: not JSON" in capsys.readouterr().err
