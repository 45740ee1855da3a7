"""The beton row of `bench convert`: both programs do the whole job before they are compared."""

from pathlib import Path

import pytest
from viewmill.tools.bench import beton_writer
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.shards.pictures import encoded, noise


def test_a_single_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(encoded(noise(0, 8, 8), "JPEG"))
    with pytest.raises(ValueError, match="1 files; --ffcv needs some hundred"):
        beton_writer.run(tmp_path, side=4, quality=90, workers=1, repeats=1, tell=print)


def test_settings_of_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.jpg").write_bytes(encoded(noise(0, 8, 8), "JPEG"))
    command = ["bench", "convert", "--source", str(tmp_path), "--max-side", "4"]
    assert run_app(app, [*command, "--out", str(tmp_path / "out.json")]) == 2
    assert "give --img2dataset PYTHON or --ffcv too" in capsys.readouterr().err


@pytest.mark.soak
def test_both_write_their_files(tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(noise(number, 64, 48), "JPEG"))
    found = beton_writer.run(tmp_path, side=32, quality=90, workers=2, repeats=1, tell=print)
    # Three small images on the two pages of 8 MiB that a file has at least.
    assert all(16 << 20 <= figures["written_bytes"] < 17 << 20 for figures in found["peers"].values())
    assert found["ratio"]["speed"] > 0
