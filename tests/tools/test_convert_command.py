"""`viewmill convert`: its sources, parts and splits, from the words on the command line to the data set."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards.conversion.run import Progress
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.convert_progress import Speed

from tests.shards.foreign_tars import write_foreign_tars
from tests.shards.pictures import tree_hashes, write_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "in", per_class=8)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    """Exit code, the JSON on stdout, the text on stderr."""
    code = run_app(app, ["convert", *map(str, words), "--workers", "1", "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def test_parts_and_their_merge(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, size = tmp_path / "out", ("--shard-size", 1)
    for index in (1, 0):
        code, part, _ = run(capsys, source, out, "--part", f"{index}/2", *size)
        assert (code, part["part"]) == (0, f"{index}/2")
    assert part["written"] == part["total"]
    assert run(capsys, source, out, "--merge", *size)[0] == 0
    assert run(capsys, source, tmp_path / "whole", *size)[0] == 0
    assert tree_hashes(out) == tree_hashes(tmp_path / "whole")


def test_merging_too_early_is_wrong_usage(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = run(capsys, source, tmp_path / "out", "--merge")
    assert code == 2
    assert "1 of 1 shards are not written (0); run the parts that are missing" in said


def test_splits_give_a_report_each(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, reports, _ = run(capsys, source, tmp_path / "out", "--split", "train=0.7,val=0.3")
    assert code == 0
    assert [Path(report["dataset"]).name for report in reports] == ["train", "val"]
    assert sum(report["inputs"] for report in reports) == 27


def test_the_bar_tells_the_speed_of_this_run_and_the_quarantine() -> None:
    times = iter([10.0, 10.0, 14.0])
    speed = Speed(lambda: next(times))
    speed.in_words(Progress(100, 5_000_000, 1, 900, 9_000_000))  # resumed: 100 were done before
    now = Progress(500, 13_000_000, 3, 900, 9_000_000)
    assert speed.in_words(now) == "convert  100 images/s  2.0 MB/s  3 quarantined"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--split", "a=0.5,b=0.5", "--merge"), "exclude each other"),
        (("--part", "3/3"), "--part is INDEX/COUNT"),
        (("--split", "train=1.5"), "--split is like train=0.9,val=0.1"),
        (("--resize", "256"), "resize is short=PIXELS or max=PIXELS"),
        (("--label-map", "absent.csv"), "absent.csv: no such file"),
        (("--subset", "train"), "--subset is for binary, and this is read as folder"),
        (("--from", "tar"), "no tar below this folder"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, error = run(capsys, source, tmp_path / "out", *words)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_table_with_a_label_map(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text("picture,wnid\nclass_0/0.jpg,n1\nclass_2/1.jpg,n2\n")
    (tmp_path / "names.csv").write_text("n2,newt\nn1,ant\n")
    words = ("--root", source, "--path-column", "picture", "--label-column", "wnid")
    code, report, _ = run(
        capsys, tmp_path / "list.csv", tmp_path / "out", *words, "--label-map", tmp_path / "names.csv"
    )
    assert (code, report["samples"], report["classes"]) == (0, 2, 2)
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["classes"] == ["newt", "ant"]
    assert description["options"]["label_map"] == [["n2", "newt"], ["n1", "ant"]]


def test_tars_are_indexed_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tars = write_foreign_tars(tmp_path / "tars")
    code, report, _ = run(capsys, tars, "--in-place")
    assert (code, report["dataset"], report["samples"], report["quarantined"]) == (0, str(tars), 6, 4)
    code, report, _ = run(
        capsys, tars, tmp_path / "ds", "--in-place", "--check", "header", "--max-quarantine", 3
    )
    assert (code, report["dataset"], report["inputs"]) == (3, str(tmp_path / "ds"), 10)
    assert run_app(app, ["verify", str(tmp_path / "ds"), "--decode"]) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--shuffle", "0"), "the samples' order is that of the tars"),
        (("--resize", "short=256"), "no image is rewritten"),
        (("--split", "a=0.5,b=0.5"), "a tar is in one data set"),
        (("--part", "0/2"), "nothing is written that takes several machines"),
        (("--merge",), "there are no parts"),
        (("--quality", "90"), "no image is rewritten"),
        (("--limit", "5"), "a tar is taken whole"),
        (("--shard-size", "5"), "the tars are the shards"),
        (("--quarantine-bytes",), "what is refused is still in the tars"),
        (("--class-level", "1"), "it is an option of other sources than tars"),
    ],
)
def test_what_would_change_tars_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    code, _, said = run(capsys, write_foreign_tars(tmp_path / "tars"), "--in-place", *words)
    assert (code, said.count("\n")) == (2, 1)
    assert f"error: {words[0]} does not go with --in-place: {reason}" in said


def test_without_in_place_a_destination_is_needed(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, source)
    assert (code, said.startswith("error: Missing argument 'DATASET'")) == (2, True)


def test_betons_are_the_same_data_set(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--format", "ffcv", "--beton-images", "raw")
    code, betons, _ = run(capsys, source, tmp_path / "betons", *words)
    assert (code, betons["shards"]) == (0, 1)
    _, tars, _ = run(capsys, source, tmp_path / "tars")
    assert betons["data_set_hash"] == tars["data_set_hash"]
    options = json.loads((tmp_path / "betons" / "dataset.json").read_text())["options"]
    assert (options["format"], options["beton_images"]) == ("ffcv", "raw")


def test_what_betons_hold_is_refused_for_tars(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = run(capsys, source, tmp_path / "out", "--beton-images", "raw")
    assert code == 2
    assert "'raw' images are for the format ffcv" in said


def test_keeping_the_bytes_excludes_changing_them(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, kept, _ = run(capsys, source, tmp_path / "kept", "--keep")
    assert (code, kept["data_set_hash"]) == (0, run(capsys, source, tmp_path / "out")[1]["data_set_hash"])
    for words in (("--resize", "max=20"), ("--format", "ffcv", "--beton-images", "raw")):
        code, _, said = run(capsys, source, tmp_path / "new", "--keep", *words)
        assert (code, "--keep leaves images as they are" in said) == (2, True)
