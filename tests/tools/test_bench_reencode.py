"""`bench convert --img2dataset`: the peer has an interpreter of its own, and what it loses is an error."""

import json
import sys
from pathlib import Path

import pytest
from viewmill.tools.bench import programs, reencode
from viewmill.tools.bench.convert_peers import MIB
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.shards.pictures import encoded, picture

PEER = """
import json
from pathlib import Path

def download(**settings):
    urls = Path(settings["url_list"]).read_text().split()
    size, target = settings["number_sample_per_shard"], Path(settings["output_folder"])
    target.mkdir()
    for number, start in enumerate(range(0, len(urls), size)):
        images = [Path(url.removeprefix("file://")).read_bytes() for url in urls[start : start + size]]
        (target / f"{number:05d}.tar").write_bytes(b"".join(images))
        lost = LOST if number == 0 else 0
        report = {"count": len(images) - lost, "successes": len(images) - lost}
        (target / f"{number:05d}_stats.json").write_text(json.dumps(report))
"""


def interpreter(folder: Path, lost: int = 0) -> Path:
    """A Python of which img2dataset is one that copies, and leaves so many images out of its reports."""
    modules = folder / "modules"
    (modules / "img2dataset").mkdir(parents=True)
    (modules / "img2dataset" / "__init__.py").write_text(PEER.replace("LOST", str(lost)))
    for name in ("img2dataset", "opencv_python_headless"):
        (modules / f"{name}-1.0.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (modules / f"{name}-1.0.dist-info" / "METADATA").write_text(metadata)
    script = folder / "python"
    script.write_text(f"#!/bin/sh\nPYTHONPATH='{modules}' exec '{sys.executable}' \"$@\"\n")
    script.chmod(0o755)
    return script


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(encoded(picture(number, 40, 60), "JPEG"))
    return tmp_path / "in"


def test_the_peer_gets_every_file_by_its_address_in_several_shards(source: Path, tmp_path: Path) -> None:
    files = sorted(source.iterdir())
    found = reencode.measure_theirs(files, interpreter(tmp_path), side=32, quality=95, workers=1, threads=4)
    assert found["written_bytes"] == sum(path.stat().st_size for path in files)
    assert min(found["seconds"], found["cpu_seconds"], found["peak_mib"]) > 0


def test_a_file_that_the_peer_loses_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="count other files than the 6 given"):
        reencode.measure_theirs(sorted(source.iterdir()), interpreter(tmp_path, lost=1), 32, 95, 1, 4)


def test_an_interpreter_without_the_peer_is_named(source: Path, tmp_path: Path) -> None:
    if "img2dataset" in sys.modules:
        pytest.skip("img2dataset is installed beside the tests")
    with pytest.raises(RuntimeError, match=r"No package metadata was found .*pip install img2dataset"):
        reencode.run(source, Path(sys.executable), side=32, quality=95, workers=1, repeats=1, tell=print)


def test_a_program_that_fails_is_an_error_with_its_last_line() -> None:
    with pytest.raises(RuntimeError, match="ended with code 1: ValueError: no disk"):
        programs.run_program([sys.executable, "-c", "raise ValueError('no disk')"])


GRANDCHILD = (
    "import time; held = bytearray(80 << 20); held[::4096] = held[::4096]; "
    "sum(range(8_000_000)); time.sleep(0.3)"
)


def test_work_and_memory_of_grandchildren_count() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}], check=True)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    found = programs.run_program([sys.executable, "-c", program])
    alone = programs.run_program([sys.executable, "-c", "import time; time.sleep(0.2)"])
    assert found["peak_mib"] > 80 + alone["peak_mib"]
    assert found["peak_mib"] < 80 + 8 * alone["peak_mib"]
    assert found["cpu_seconds"] > alone["cpu_seconds"] + 0.1
    assert alone["peak_mib"] * MIB > 1_000_000


@pytest.mark.slow
def test_the_command_shows_and_keeps_both(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, python = tmp_path / "bench.json", interpreter(tmp_path)
    arguments = ["bench", "convert", "--source", str(source), "--repeats", "1", "--out", str(out)]
    assert run_app(app, [*arguments, "--img2dataset", str(python), "--max-side", "32"]) == 0
    assert "img2dataset" in capsys.readouterr().out
    kept = json.loads(out.read_text())["figures"]["reencode"]
    assert set(kept["peers"]) == {reencode.OURS, reencode.THEIRS}
    assert (kept["settings"]["max_side"], kept["settings"]["quality"]) == (32, 95)
    assert kept["settings"]["threads"] in reencode.THREADS
    assert kept["versions"] == {"img2dataset": "1.0", "opencv-python-headless": "1.0"}
    ours, theirs = kept["peers"][reencode.OURS], kept["peers"][reencode.THEIRS]
    assert kept["ratio"]["speed"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    more = ours["cpu_seconds"] - kept["single"][reencode.OURS]["cpu_seconds"]
    assert kept["cpu_ms_per_image"][reencode.OURS] == pytest.approx(1000 * more / 5)
    assert str(tmp_path) not in out.read_text()


def test_settings_without_the_peer_are_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["bench", "convert", "--source", str(source), "--max-side", "32"]) == 2
    assert "give --img2dataset PYTHON or --ffcv too" in capsys.readouterr().err
    assert run_app(app, ["bench", "convert", "--source", str(source), "--img2dataset", "/no/python"]) == 2
    assert "no such interpreter" in capsys.readouterr().err
