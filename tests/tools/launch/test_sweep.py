"""Sweeps: from words to runs, and from their folders to a table."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.config import load_config, save_config
from viewmill.engine.strict import ConfigError
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.sweep import combinations, folder_name, jobs_of, parse_sweep, split
from viewmill.tools.launch.sweep_results import as_csv, is_finished, note_end, results, write_results


def test_every_combination_is_a_run_named_by_its_settings() -> None:
    runs = combinations(parse_sweep(["optimizer.lr=1e-3,1e-4", "method.kappa=1,10"], ["epochs=2"]))
    assert [run.name for run in runs] == [
        *("lr=1e-3,kappa=1", "lr=1e-3,kappa=10", "lr=1e-4,kappa=1", "lr=1e-4,kappa=10")
    ]
    assert runs[1].overrides() == ("optimizer.lr=1e-3", "method.kappa=10")


def test_keys_that_end_alike_are_written_out() -> None:
    (run,) = combinations({"a.lr": ["1"], "b.lr": ["2"], "c.d": ["3"]})
    assert run.name == "a.lr=1,b.lr=2,d=3"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2", ["1", "2"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{a: [1,2]},x", ["{a: [1,2]}", "x"]),
        ("'a,]',\"b,c\"", ["'a,]'", '"b,c"']),
        ("", [""]),
    ],
)
def test_commas_in_brackets_and_quotes_part_nothing(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lr"], "expected key=value,value"),
        (["=1"], "expected key=value,value"),
        (["lr=1,"], "expected key=value,value"),
        (["lr=1", "lr=2"], "lr is given twice"),
        (["epochs=1,2"], "epochs is given twice"),
        (["lr=1,2,1"], "a value stands there twice"),
    ],
)
def test_words_that_are_no_grid_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_sweep(words, ["epochs=2"])


def test_names_hold_any_value_and_stay_apart() -> None:
    names = [folder_name({"a": value}) for value in ("x/y", "x%2Fy", "é", "../..", "x" * 300, "x" * 301)]
    assert names[:4] == ["a=x%2Fy", "a=x%252Fy", "a=%C3%A9", "a=..%2F.."]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) == 120


def test_runs_of_a_sweep_begin_or_go_on_by_the_same_command(tmp_path: Path) -> None:
    job = Job("hydes_tiny", "/data", str(tmp_path), ("epochs=2",), env={"A": "1"})
    first, second = jobs_of(job, combinations({"optimizer.lr": ["1", "2"]}))
    assert first.overrides == ("epochs=2", "optimizer.lr=1")
    assert second.out == str(tmp_path / "lr=2")
    assert (first.resume, first.env) == (True, {"A": "1", "VIEWMILL_MAY_BEGIN": "1"})


def leave(run: Path, events: list[dict[str, Any]], code: int | None, *overrides: str) -> None:
    """The folder of a run that came so far."""
    run.mkdir(parents=True)
    save_config(load_config("hydes_tiny", list(overrides)), run / "config.yaml")
    (run / "events.jsonl").write_text("".join(json.dumps({"step": 4, **event}) + "\n" for event in events))
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": -0.5}\n{"step": 4, "loss": -0.75}\n')
    if code is not None:
        note_end(run, code)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Six runs of different ends."""
    judged = {"event": "evaluation", "knn": 0.5, "seconds": 1.0, "best": 4}
    leave(tmp_path / "lr=1", [{"event": "start"}, judged, {"event": "end"}], 0, "optimizer.lr=1")
    (tmp_path / "lr=1" / "evaluation").mkdir()
    entry = {"task": "knn", "n": 9, "trained": 0.625, "untrained": 0.25}
    (tmp_path / "lr=1" / "evaluation" / "summary.json").write_text(json.dumps([entry]))
    leave(tmp_path / "lr=2", [{"event": "start"}, judged], 1)
    (tmp_path / "lr=2" / "faults").mkdir()
    (tmp_path / "lr=2" / "faults" / "summary.json").write_text('[{"cause": "rank 1, and why"}]')
    leave(tmp_path / "lr=3", [{"event": "start"}], 85)
    (tmp_path / "lr=3" / "requeue.json").write_text("{}")
    leave(tmp_path / "lr=4", [{"event": "start"}], None)
    note_end(tmp_path / "lr=5", 2)
    return tmp_path


RUNS = combinations({"optimizer.lr": ["1", "2", "3", "4", "5", "6"]})


def test_the_table_says_how_every_run_stands(sweep: Path) -> None:
    lines = results(sweep, RUNS)
    assert [(line["status"], line["loss"], line["exit_code"]) for line in lines] == [
        ("finished", -0.75, 0),
        ("failed", -0.75, 1),
        ("stopped", -0.75, 85),
        ("not finished", -0.75, None),
        ("failed", None, 2),
        ("not begun", None, None),
    ]
    assert lines[0]["evaluation"] == {"knn": 0.625}  # of viewmill evaluate, which goes before
    assert lines[1]["evaluation"] == {"knn": 0.5}
    assert lines[1]["cause"] == "rank 1, and why"


def test_a_folder_that_cannot_be_read_is_a_line_and_no_error(sweep: Path) -> None:
    (sweep / "lr=1" / "metrics.jsonl").write_text("nonsense\n")
    first, second = results(sweep, RUNS[:2])
    assert (first["status"], second["status"]) == ("failed", "failed")
    assert "not JSON" in first["cause"]


def test_csv_and_json_hold_the_same_figures(sweep: Path) -> None:
    lines = results(sweep, RUNS)
    files = write_results(sweep, lines)
    assert json.loads(files[0].read_text()) == lines
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert rows[1] == {
        **{"run": "lr=2", "optimizer.lr": "2", "status": "failed", "step": "4", "loss": "-0.75"},
        **{"knn": "0.5", "exit_code": "1", "cause": "rank 1, and why"},
    }
    assert as_csv(lines) == files[1].read_text()
    assert rows[5]["loss"] == ""


def test_a_run_is_finished_only_with_these_settings(sweep: Path) -> None:
    assert is_finished(sweep / "lr=1", load_config("hydes_tiny", ["optimizer.lr=1"]))
    assert not is_finished(sweep / "lr=1", load_config("hydes_tiny", ["optimizer.lr=1", "epochs=9"]))
    assert not is_finished(sweep / "lr=2", load_config("hydes_tiny"))
    assert not is_finished(sweep / "lr=6", load_config("hydes_tiny"))
