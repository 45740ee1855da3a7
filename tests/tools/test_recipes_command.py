"""`viewmill recipes`: what can be trained by name, and what the papers report of it."""

import json
import shlex

import pytest
from viewmill.engine.catalogue import catalogue
from viewmill.engine.recipe_file import shipped_recipes
from viewmill.tools.cli import app
from viewmill.tools.console import run_app


def printed(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_app(app, ["recipes", *shlex.split(arguments)]) == 0
    return capsys.readouterr().out


def test_the_list_has_every_recipe_and_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    names = {line.split()[0] for line in printed("", capsys).splitlines() if line}
    assert {*shipped_recipes(), *catalogue()} <= names


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--paper hydes --table 'figure 7'", 5),
        ("--paper imsvd", 28),
        ("--table 'Table I'", 17),
    ],
)
def test_paper_and_table_choose_rows(
    arguments: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(printed(f"{arguments} --json", capsys))
    assert found["recipes"] == {}
    assert len(found["rows"]) == expected


def test_a_row_is_shown_with_its_source_figures_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed("show supervised_cifar100 --json", capsys))
    assert found["source"] == "HyDeS: hyperspherical density shaping, Table I: CIFAR-100, Supervised, RN18"
    assert found["paper_results"]["linear_top1"] == 53.05
    assert (found["epochs"], found["batch_size"]) == (200, 128)
    assert found["command"] == "viewmill train supervised_cifar100 --data CIFAR100 --out RUN"
    assert found["the_same_as"].endswith("--out RUN method.num_classes=100")


def test_a_recipe_that_is_no_row_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "tiles of 18 photographs" in printed("show demo", capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--paper vicreg",
            "--paper vicreg: no such paper; there are distillation, hydes, hydes_workshop, imsvd",
        ),
        (
            "--paper hydes --table 'Table IX'",
            "hydes has no such table; it has Table I, Figure 6, Figure 7, Figure 8",
        ),
        ("show hydes_stl10_kapa_10", "such as hydes_stl10_kappa_10"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["recipes", *shlex.split(arguments)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert message in captured.err
