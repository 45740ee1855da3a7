"""`viewmill verify`: repairs from the command line, their exit codes and one line a fault."""

import json
from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.shards.pictures import tree_hashes, write_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "in")


@pytest.fixture
def dataset(source: Path, tmp_path: Path) -> Path:
    convert(source, tmp_path / "ds", shard_bytes=12_000)
    return tmp_path / "ds"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], str]:
    """Exit code, the lines on stdout, the text on stderr."""
    code = run_app(app, ["verify", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_a_shard_is_made_again_from_its_source(
    source: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tree_hashes(dataset)
    (dataset / "train-000001.tar").unlink()
    code, lines, _ = run(capsys, dataset, "--repair")
    assert (code, len(lines)) == (3, 2)
    assert lines[0].startswith("train-000001.tar: is missing; take it from a copy, or make it again")
    code, lines, _ = run(capsys, dataset, "--repair", "--source", source)
    assert (code, lines[0].endswith("(repaired)"), lines[1]) == (0, True, f"{dataset}: whole")
    assert tree_hashes(dataset) == expected


def test_a_source_that_changed_leaves_the_fault_and_exit_code_3(
    source: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "train-000001.tar").unlink()
    (source / "class_0" / "0.jpg").unlink()
    code, lines, _ = run(capsys, dataset, "--repair", "--source", source)
    assert (code, lines[1]) == (3, f"{dataset}: 1 fault")
    assert "has 14 inputs now, dataset.json states 15" in lines[0]


def test_a_table_is_read_from_its_root(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("path,label\nclass_0/0.jpg,b\nclass_2/1.jpg,a\n")
    words = ["--root", str(source), "--workers", "1", "--json"]
    assert run_app(app, ["convert", str(tmp_path / "list.csv"), str(tmp_path / "out"), *words]) == 0
    (tmp_path / "out" / "train-000000.tar").write_bytes(b"")
    words = ["--repair", "--source", str(tmp_path / "list.csv")]
    capsys.readouterr()
    assert run(capsys, tmp_path / "out", *words)[0] == 3
    assert run(capsys, tmp_path / "out", *words, "--root", source)[0] == 0


def test_what_was_lost_is_a_line_of_its_own(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "manifest.parquet").unlink()
    code = run_app(app, ["verify", str(dataset), "--repair", "--json"])
    faults = json.loads(capsys.readouterr().out)
    assert (code, [fault["repaired"] for fault in faults]) == (0, [True, True])
    assert "are guesses now" in faults[1]["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--source", "x"), "x: a source is for a repair; add --repair"),
        (("--repair", "--root", "x"), "give --source SOURCE as well"),
        (("--repair", "--labels", "x"), "give --source SOURCE as well"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(
    dataset: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, error = run(capsys, dataset, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
