"""`bench methods` trains and judges methods alike, keeps every row, and goes on where it was stopped."""

from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.bench import methods
from viewmill.tools.bench.result import read_result
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.commands import viewmill
from tests.engine.tiny import tiny_data_set

NAMES = ("hydes", "distill_center")
SMALL = {
    "names": NAMES,
    "batch_size": 20,
    "epochs": 2,
    "max_steps": 3,
    "threads": 1,
    "settings": ("model.backbone=test_resnet", "method.projector.hidden=16", "method.projector.dim=8"),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("methods")
    return [str(tiny_data_set(folder / name, 40, first)) for name, first in (("train", 0), ("test", 1000))]


@pytest.fixture(scope="module")
def found(paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_viewmill", done)
        return folder, methods.run(*paths, folder, folder / "figures.json", **SMALL)


def done(*words: str) -> None:
    """The command in a fork that has torch already: an interpreter for each of four takes 40 CPU seconds."""
    ended = viewmill(*words)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_each_method_has_a_row_of_as_many_steps_beside_the_same_floors(
    found: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = found
    assert set(result["rows"]) == set(NAMES)
    assert {row["steps"] for row in result["rows"].values()} == {3}
    floors = [(row["knn"]["untrained"], row["knn"]["floors"]) for row in result["rows"].values()]
    assert floors[0] == floors[1]
    assert read_result(folder / "figures.json").figures["rows"] == result["rows"]


@pytest.mark.slow
def test_a_row_that_is_there_is_not_made_again(
    found: tuple[Path, dict[str, Any]], paths: list[str], tmp_path: Path
) -> None:
    folder, result = found
    (tmp_path / "figures.json").write_text((folder / "figures.json").read_text())
    again = methods.run(*paths, tmp_path / "none", tmp_path / "figures.json", **SMALL)
    assert again["rows"] == result["rows"]
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_row_of_other_data_or_settings_is_made_again(
    found: tuple[Path, dict[str, Any]], paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = found
    made: list[list[str]] = []

    def measured(chosen: list[str], data: str, *rest: object) -> dict[str, Any]:
        made.append([data, *chosen])
        return {"steps": 7}

    monkeypatch.setattr(methods, "_measured", measured)
    for changed, change in ((list(reversed(paths)), {}), (paths, {"batch_size": 10}), (paths, {"seed": 1})):
        (tmp_path / "figures.json").write_text((folder / "figures.json").read_text())
        one = SMALL | {"names": NAMES[:1]} | change
        again = methods.run(*changed, tmp_path / "runs", tmp_path / "figures.json", **one)
        assert made.pop()[0] == changed[0]
        assert again["rows"]["hydes"]["steps"] == 7
        assert again["rows"]["distill_center"] == result["rows"]["distill_center"]
    assert not made


def test_a_name_that_is_no_run_is_told(
    paths: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "methods", "--data", paths[0], "--on", paths[1], "--folder", str(tmp_path)]
    assert run_app(app, [*words, "--out", str(tmp_path / "f.json"), "--runs", "hydes,dino"]) == 2
    assert "no run 'dino'; there are hydes, imsvd" in capsys.readouterr().err


def test_a_command_that_fails_stops_the_bench_with_its_last_line(paths: list[str], tmp_path: Path) -> None:
    wrong = SMALL | {"settings": ("batch_sise=8",)}
    with pytest.raises(RuntimeError, match=r"viewmill train .* ended with code 2: error: .*batch_size"):
        methods.run(*paths, tmp_path, tmp_path / "figures.json", **wrong)
