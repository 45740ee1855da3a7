"""What a new user mistypes around data sets: each is one line that says what, where and what to do."""

import errno
from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app, written_aside

from tests.shards.pictures import write_tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("photographs") / "in")


@pytest.fixture(scope="module")
def dataset(source: Path) -> Path:
    convert(source, source.parent / "ds")
    return source.parent / "ds"


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The line on stderr of a command that was used wrongly."""
    assert run_app(app, [str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "SOURCE", "s3://bucket/train"),
        ("convert", "SOURCE", "gs://bucket", "--in-place"),
        ("verify", "s3://bucket/train"),
        ("inspect", "https://example.org/train"),
        ("preview", "s3://bucket/train", "cat/1"),
        ("train", "demo", "--data", "DATASET", "--out", "s3://bucket/train"),
    ],
)
def test_a_url_is_no_folder_and_makes_none(
    tmp_path: Path,
    source: Path,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = complaint(capsys, *(source if word == "SOURCE" else word for word in words))
    assert "a URL, and no folder of this machine; " in said
    assert next(word for word in words if "://" in word) in said
    assert list(tmp_path.iterdir()) == []


def test_a_quality_without_anything_to_encode_is_refused(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "convert", source, tmp_path / "ds", "--quality", 80)
    assert "--resize" in said
    assert "--beton-images jpeg" in said
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    ("words", "by"),
    [
        (("--preset", "hydes@32"), "--html or --png"),
        (("--images", 3), "--html or --png"),
        (("--seed", 0), "--html, --png or --shuffle"),
        (("--block", 1), "--shuffle"),
        (("--window", 0), "--shuffle"),
        (("--batch-size", 2), "--shuffle"),
        (("--epochs", 2), "--shuffle"),
    ],
)
def test_inspect_refuses_an_option_that_nothing_would_use(
    dataset: Path, words: tuple[object, ...], by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "inspect", dataset, *words)
    assert f"{words[0]}: only for {by}; " in said


def test_an_unfinished_conversion_is_called_by_its_name(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint(capsys, "convert", source, tmp_path / "ds", "--merge")
    for command in ("verify", "inspect"):
        assert "an unfinished conversion" in complaint(capsys, command, tmp_path / "ds")


def test_a_file_that_is_given_as_a_data_set_is_called_a_file(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a file; give the folder" in complaint(capsys, "verify", dataset / "dataset.json")


def test_a_table_of_paths_that_are_not_there_names_the_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("path,label\nnot_here.jpg,x\n")
    assert run_app(app, ["convert", str(tmp_path / "list.csv"), str(tmp_path / "ds")]) == 1
    assert "start from --root" in capsys.readouterr().err


def test_a_wrong_choice_is_told_without_the_checkers_words(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "convert", source, tmp_path / "ds", "--check", "none")
    assert "'none' is not one of 'decode', 'header'" in said
    assert "Value error" not in said


def test_a_full_disk_names_what_was_written_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run_app(app, ["sample-data", str(tmp_path / "photographs"), "--tiles", "1", "--size", "8"]) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'photographs'}: No space left on device; free some space" in said
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("older")

    def write() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"page\.html"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.html", "older")]


@pytest.mark.parametrize("option", ["--prototypes", "--against"])
def test_a_prior_is_not_written_over_one_that_it_reads(
    tmp_path: Path, dataset: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "prior.safetensors"
    kept.write_text("of a long pass")
    words = ("prior", tmp_path, "--data", dataset, "--temperature", 0.07, option, kept, "--out", kept)
    assert "give --out another file" in complaint(capsys, *words)
    assert kept.read_text() == "of a long pass"
