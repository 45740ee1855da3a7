"""`inspect --shuffle` tells before a training how an order mixes a data set."""

import json
from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.shards.pictures import encoded, picture


@pytest.fixture(scope="module")
def class_sorted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 120 images in 4 classes, in the order of its paths."""
    folder = tmp_path_factory.mktemp("sorted")
    for number in range(120):
        path = folder / "in" / f"c{number // 30}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number), "PNG"))
    convert(folder / "in", folder / "ds", shuffle_seed=None, workers=1)
    return folder / "ds"


def test_a_class_sorted_source_read_in_blocks_is_called_poor(
    class_sorted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", str(class_sorted), "--shuffle", "--batch-size", "10", "--block", "10", "--json"]
    assert run_app(app, words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_samples"] == 120  # the rest of inspect is still there
    shuffle = found["shuffle"]
    assert shuffle["order"]["block"] == 10
    assert shuffle["grade"] == "poor"
    assert shuffle["figures"]["distinct_classes"]["measured"] == 1
    assert shuffle["reads"]["batch"]["reads"] == 1


def test_a_full_shuffle_of_it_is_perfect_and_a_table_for_people(
    class_sorted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["inspect", str(class_sorted), "--shuffle", "--batch-size", "10"]) == 0
    shown = capsys.readouterr().out
    assert "perfect: no figure tells it" in shown
    assert "class entropy" in shown
    assert "bytes a read" in shown


def test_a_window_is_a_unit_of_reading_and_another_seed_another_order(
    class_sorted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", str(class_sorted), "--shuffle", "--batch-size", "10", "--json"]
    words += ["--block", "5", "--window", "40", "--seed", "3", "--epochs", "4"]
    assert run_app(app, words) == 0
    shuffle = json.loads(capsys.readouterr().out)["shuffle"]
    assert shuffle["reads"]["window"]["samples"] == 40
    assert shuffle["reads"]["window"]["reads"] <= 8
    assert (shuffle["order"]["seed"], shuffle["epochs"], shuffle["batches"]) == (3, 4, 48)


def test_a_batch_that_does_not_fit_is_refused_in_a_line(
    class_sorted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["inspect", str(class_sorted), "--shuffle", "--batch-size", "121"]) == 2
    assert "--batch-size 121:" in capsys.readouterr().err


def test_inspect_without_it_says_nothing_of_an_order(
    class_sorted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["inspect", str(class_sorted), "--json"]) == 0
    assert "shuffle" not in json.loads(capsys.readouterr().out)
