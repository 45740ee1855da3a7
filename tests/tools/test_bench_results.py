"""Stored results, of any format, are read, judged, compared and shown."""

import html
import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.table import Table
from viewmill.tools.bench.charts import PLOTS, charts_of
from viewmill.tools.bench.comparison import Moved, compare, notes
from viewmill.tools.bench.goals import JUDGES, goals_of
from viewmill.tools.bench.provenance import commit_of, provenance, without_folders
from viewmill.tools.bench.result import Result, read_result, result_of
from viewmill.tools.bench.results_page import escaped, markdown, render
from viewmill.tools.bench.sections import ASKED, sections
from viewmill.tools.bench.stored import HERE, Stored, read_stored
from viewmill.tools.bench_commands.app import COMMANDS
from viewmill.tools.bench_commands.figures import keep, with_shared_options
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

FILES = sorted(HERE.rglob("*.json"))
OLD = {
    "bench": "manifest",
    "rows": 1000,
    "repeats": 3,
    "seconds": 0.1,
    "seconds_range": [0.09, 0.12],
    "resident_mib": 50.0,
    "resident_mib_range": [50.0, 50.0],
    "fingerprint": {"cpu": "one", "packages": {"torch": "2.14"}},
}


@pytest.fixture(scope="module")
def stored() -> list[Stored]:
    return read_stored(HERE)


def is_of_a_run(path: Path) -> bool:
    """Its summary stands for it."""
    return (path.parent / "summary.json").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_every_stored_file_is_read_judged_and_laid_out(path: Path, stored: list[Stored]) -> None:
    wanted = path.parent if is_of_a_run(path) else path.with_suffix("")
    (one,) = [one for one in stored if one.name == str(wanted.relative_to(HERE))]
    assert one.result.fingerprint["cpu_count"] > 0
    assert (len(one.goals) > 0) == (one.result.bench in JUDGES)
    laid_out = sections(one.result.figures)
    named = " ".join([section.title + " " + row[0] for section in laid_out for row in section.rows])
    for group, rows in one.result.figures.items():
        wanted_names = set(rows) - set(ASKED) if isinstance(rows, dict) and group not in ASKED else set()
        assert all(name in named for name in wanted_names if not name.endswith("_range")), group


def test_the_page_and_the_markdown_hold_every_result_and_load_nothing(stored: list[Stored]) -> None:
    page, text = render(stored, "viewmill bench results"), markdown(stored)
    assert "default-src 'none'" in page
    assert "<script src" not in page
    assert page.count('<h3 class="result"') == len(stored)
    for one in stored:
        assert f'id="{one.name}"' in page
        assert f"\n## {escaped(one.name)}\n" in text
        for goal in one.goals:
            assert html.escape(goal.name, quote=False).replace("'", "&#39;") in page
    assert "missed" in page  # what was not reached is told


def test_each_benchmark_with_stored_results_has_a_plot_but_for_those_without_rows(
    stored: list[Stored],
) -> None:
    for one in stored:
        assert bool(charts_of(one.result, "x")) == (one.result.bench in PLOTS), one.name


def test_a_result_stays_the_same_when_it_is_stored_and_read(tmp_path: Path) -> None:
    made = result_of(OLD)
    assert made.settings == {"rows": 1000, "repeats": 3}
    assert set(made.figures) == {"seconds", "seconds_range", "resident_mib", "resident_mib_range"}
    second = {name: value for name, value in made.tree().items() if name != "made"} | {"format": 2}
    for name, tree in (("old", OLD), ("second", second), ("new", made.tree())):
        (tmp_path / name).write_text(json.dumps(tree))
        assert read_result(tmp_path / name) == made


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "no result of a benchmark"),
        ("{", "not JSON"),
        (json.dumps({**result_of(OLD).tree(), "format": 4}), "format 4, this version reads 1 to 3"),
        (json.dumps({"format": 2, "bench": "x", "fingerprint": {}}), "not all that a result holds"),
    ],
)
def test_what_is_no_result_is_refused_by_name(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.json: .*{told}"):
        read_result(tmp_path / "x.json")


def test_a_goal_is_met_at_its_bound_and_missed_beyond() -> None:
    for seconds, met in ((0.2, True), (0.2001, False)):
        goals = goals_of("manifest", {"seconds": seconds, "resident_mib": 1.0}, {})
        assert [goal.met for goal in goals] == [met, True]


def test_what_a_plan_misses_is_told_row_by_row(stored: list[Stored]) -> None:
    (one,) = [one for one in stored if one.name == "plan/cpu"]
    met = {goal.name: goal.met for goal in one.goals}
    assert len(met) == len(one.goals)
    rows = [row for row in one.result.figures["rows"] if not row["fitted"]]
    assert len(met) == len(rows) + 2 * len(one.result.figures["published"])
    assert met["views of 96, batch 16, ranks: 2: error of images/s"]
    assert met["IMSVD, loader ffcv_ssl: error of published hours"]
    assert not met["Barlow Twins, loader pillow: error of published hours"]
    page = html.unescape(render([one], "x"))
    assert "Barlow Twins, loader pillow: error of published hours" in page


def test_a_peak_beyond_what_a_plan_leaves_free_is_missed(stored: list[Stored]) -> None:
    (one,) = [one for one in stored if one.name == "memory/vit_small"]
    met = {goal.name: goal.met for goal in one.goals}
    assert met["stage 1, ranks: 4, micro-batches: 1: peak over the formula"]
    assert not met["stage 0, ranks: 1, micro-batches: 16: peak over the formula"]


def test_goals_of_a_size_are_not_asked_of_another() -> None:
    figures = {"ratios": {"speed": 1.0, "memory": 1.0}}
    assert not goals_of("loss hydes", figures, {"device": "cpu", "vectors": 64, "dim": 8})
    assert len(goals_of("loss hydes", figures, {"device": "cpu", "vectors": 16384, "dim": 256})) == 2


def changed(**figures: Any) -> Result:
    fingerprint = {"cpu": "two", "packages": {"torch": "2.14"}}
    return result_of({**OLD, "repeats": 5, "fingerprint": fingerprint, **figures})


def test_a_comparison_tells_what_moved_and_what_else_differs() -> None:
    found = compare(result_of(OLD), changed(seconds=0.3, seconds_range=[0.11, 0.4], extra=1.0))
    assert found.figures == [Moved("seconds", 0.1, 0.3, overlap=True)]
    assert found.figures[0].change == pytest.approx(2)
    assert found.settings == {"repeats": [3, 5]}
    assert found.fingerprint == {"cpu": ["one", "two"]}
    assert found.not_comparable == "cpu was one, is two"
    assert found.tree()["not_comparable"] == "cpu was one, is two"
    assert notes(found)[0] == "not comparable: cpu was one, is two"
    assert (found.only_new, found.only_old) == (["extra"], [])
    assert found.goals == {"seconds to open and find a batch": [True, False]}


def test_results_of_the_same_hardware_are_comparable_whatever_an_older_one_has_not_looked_at() -> None:
    now = {"cpu": "one", "packages": {"torch": "3"}, "cpus_allowed": 2, "cpu_quota": None}
    found = compare(result_of(OLD), result_of({**OLD, "fingerprint": now}))
    assert found.tree()["not_comparable"] is None
    assert notes(found) == ["other machine or packages: packages.torch was 2.14, is 3"]
    found = compare(result_of({**OLD, "fingerprint": now}), changed(fingerprint=now | {"cpu_quota": 1.5}))
    assert found.not_comparable == "cpu_quota was none, is 1.5"


def test_spreads_that_do_not_meet_are_told_apart() -> None:
    found = compare(result_of(OLD), changed(seconds=0.3, seconds_range=[0.25, 0.4]))
    assert found.figures[0].overlap is False


def test_texts_of_a_result_are_no_markup() -> None:
    row = {"<b>|x": {"ms": 1.0}}
    result = Result("order", {"<i>": "</script>"}, {"kinds": row}, {"cpu": "<u>", "cpu_count": 1})
    one = Stored("<name>", Result(result.bench + "x", result.settings, row, result.fingerprint), None)
    page = render([one], "x")
    for text in ("<b>", "<i>", "<u>", "<name>"):
        assert text not in page
    assert "\\<b\\>\\|x" in markdown([one])


@pytest.mark.parametrize("words", [*([name] for name in COMMANDS), ["loss", "hydes"], ["loss", "imsvd"]])
def test_every_benchmark_compares_and_plots(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["bench", *words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--compare" in shown
    assert "--plots" in shown


def bench(*, fails: bool = False) -> typer.Typer:
    """A benchmark of no time, with what all benchmarks share."""
    made = typer.Typer()

    @made.command()
    @with_shared_options
    def manifest(
        out: Annotated[Path, typer.Option()], json: Annotated[bool, typer.Option("--json")] = False
    ) -> None:
        assert not fails
        figures = {**OLD, "seconds": 0.3, "seconds_range": [0.3, 0.3]}
        keep(figures, out, lambda tree: Table(title=f"{tree['rows']} rows"), json)

    return made


def test_a_command_stores_and_compares_also_with_the_file_that_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    out.write_text(json.dumps(OLD))
    assert run_app(bench(), ["--out", str(out), "--compare", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["comparison"]["figures"][0]["name"] == "seconds"
    assert read_result(out).figures["seconds"] == 0.3
    made = read_result(out).made
    assert made is not None
    assert made["command"] == "viewmill --out out.json --compare out.json --json"
    assert str(tmp_path) not in out.read_text()
    assert made["date"].endswith("+00:00")
    assert made["commit"] == commit_of(Path(provenance.__code__.co_filename).resolve())
    assert "comparison" not in json.loads(out.read_text())
    (tmp_path / "old.json").write_text(json.dumps(OLD))
    assert run_app(bench(), ["--out", str(out), "--compare", str(tmp_path / "old.json")]) == 0
    shown = capsys.readouterr().out
    assert "+200.0%" in shown
    assert "goal no longer reached" in shown


@pytest.mark.parametrize(
    ("other", "told"), [({"bench": "order"}, "a result of bench order"), ({}, "no such file")]
)
def test_what_cannot_be_compared_is_refused_before_the_work(
    other: dict[str, str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    if other:
        old.write_text(json.dumps(OLD | other))
    assert run_app(bench(fails=True), ["--out", str(tmp_path / "x.json"), "--compare", str(old)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("--data=/home/me/DATA/", "--data=DATA"),
        ("s3://bucket/shards", "shards"),
        ("--images", "--images"),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("model.weights=/x/y.safetensors", "model.weights=y.safetensors"),
        ("/x/a=b/c", "c"),
        ("512", "512"),
    ],
)
def test_no_folder_of_a_machine_is_stored(word: str, kept: str) -> None:
    assert without_folders(word) == kept


def test_the_commit_is_that_of_the_file_and_of_nothing_around_it(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    file = tmp_path / "tracked.py"
    file.write_text("1")
    assert commit_of(file) is None  # no repository
    for words in (["init", "-q"], ["add", "tracked.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "beside.py").write_text("1")
    assert commit_of(file) == head.strip()
    assert commit_of(tmp_path / "beside.py") is None  # an installed package inside another repository
    file.write_text("longer than before")
    assert commit_of(file) == f"{head.strip()}-dirty"


def test_how_a_result_was_made_stands_on_the_page() -> None:
    made = {"command": "viewmill bench order --out <b>.json", "date": "2020-01-01", "commit": "0123abc"}
    machine = {"cpu_count": 16, "cpus_allowed": 2, "cpu_quota": 1.5}
    one = Stored("x", result_of({**OLD, "made": made, "fingerprint": machine}), None)
    page, text = render([one], "x"), markdown([one])
    assert "made by viewmill bench order --out &lt;b&gt;.json; 2020-01-01, at commit 0123abc" in page
    assert "2020-01-01, at commit 0123abc" in text
    assert "2 of them allowed, a quota of 1.5" in page


def test_plots_are_written(tmp_path: Path) -> None:
    from viewmill.tools.inspection.plots import write_plots

    (one,) = [one for one in read_stored(HERE) if one.name == "loss/hydes_cpu"]
    written = write_plots(charts_of(one.result, "x"), tmp_path / "plots", "caption")
    assert [path.name for path in written] == ["loss_hydes_0.png", "loss_hydes_1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_the_command_prints_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD))
    assert run_app(app, ["bench", "results", str(tmp_path), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["name"], [goal["met"] for goal in printed["goals"]]) == ("a", [True, True])
    assert run_app(app, ["bench", "results", str(tmp_path)]) == 0
    assert "2 of 2" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert run_app(app, ["bench", "results", str(tmp_path), "--out", str(page)]) == 0
    assert 'id="a"' in page.read_text()
    assert str(tmp_path) not in page.read_text()


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["bench", "results", str(tmp_path)]) == 2
    assert run_app(app, ["bench", "results", str(tmp_path / "no")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "no result in it" in lines[0]
    assert "no such folder" in lines[1]
