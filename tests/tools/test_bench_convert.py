"""`bench convert` measures conversion and plain loops in processes of their own and keeps what it found."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.bench import convert
from viewmill.tools.bench.convert_peers import MIB, PEERS
from viewmill.tools.bench.memory import peak_bytes
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.shards.pictures import write_tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("bench") / "source")


@pytest.fixture(scope="module")
def result(source: Path) -> dict[str, Any]:
    return convert.run(source, repeats=1, workers=2)


@pytest.mark.slow
def test_conversion_and_plain_loops_are_measured(result: dict[str, Any], source: Path) -> None:
    assert set(result["peers"]) == set(PEERS)
    assert result["images"] == sum(path.is_file() for path in source.rglob("*"))
    for figures in result["peers"].values():
        assert min(figures["seconds"], figures["cpu_seconds"], figures["peak_mib"]) > 0


@pytest.mark.slow
def test_a_ratio_is_the_share_of_the_plain_loops_speed(result: dict[str, Any]) -> None:
    ours, plain = result["peers"]["convert --check header"], result["peers"]["copy, hash"]
    assert result["ratios"]["header"]["speed"] == pytest.approx(plain["seconds"] / ours["seconds"])
    assert result["ratios"]["header"]["cpu"] == pytest.approx(plain["cpu_seconds"] / ours["cpu_seconds"])


@pytest.mark.slow
def test_workers_count_in_time_and_memory(result: dict[str, Any], source: Path) -> None:
    alone = convert.in_a_process("copy, hash", source, workers=1)
    both = result["peers"]["copy, hash"]
    assert both["cpu_seconds"] > alone["cpu_seconds"]  # a spawned worker imports what it needs
    assert both["peak_mib"] > 1.5 * alone["peak_mib"]


@pytest.mark.slow
def test_the_command_shows_and_keeps_the_figures(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "convert.json"
    arguments = ["bench", "convert", "--source", str(source), "--repeats", "1", "--out", str(out)]
    assert run_app(app, arguments) == 0
    shown = capsys.readouterr().out
    assert "copy, hash" in shown
    assert ">= 0.8" in shown
    kept = json.loads(out.read_text())
    assert kept["settings"]["workers"] == 1
    assert str(source) not in out.read_text()


def test_the_peak_of_a_process_stays_after_the_memory_is_given_back() -> None:
    held = bytearray(64 * MIB)
    held[::4096] = bytes(len(held[::4096]))  # touched, page by page
    del held
    assert peak_bytes() > 64 * MIB


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"workers": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        convert.run(tmp_path, **wrong)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file in this folder"):
        convert.run(tmp_path)
