"""The catalogue of the papers' tables: every row is a run, and a name for it."""

import shlex
from pathlib import Path

import pytest
from viewmill.engine import catalogue as catalogue_module
from viewmill.engine.backbones import build_backbone, check_image_sizes
from viewmill.engine.catalogue import Row, catalogue, rows_of
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import ConfigError, load_config
from viewmill.engine.evaluation.tasks import parse_tasks
from viewmill.engine.recipe_file import shipped_recipes
from viewmill.engine.stale_statistics import stale_notice

ROWS = list(catalogue().values())


def words_of(command: str) -> list[str]:
    """The arguments of `viewmill train`: recipe, then overrides."""
    _, _, recipe, _, _, _, _, *overrides = shlex.split(command)
    return [recipe, *overrides]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_run_by_its_name_and_by_its_long_command(row: Row) -> None:
    recipe, *overrides = words_of(row.long_command)
    by_recipe = load_config(recipe, overrides)
    resolve_views(by_recipe)
    assert words_of(row.command) == [row.name]
    assert load_config(row.name) == by_recipe


def test_the_backbones_of_all_rows_take_the_sizes_of_their_views() -> None:
    runs = [load_config(row.name) for row in ROWS]
    kinds = {(run.model.backbone, run.model.stem, resolve_views(run).sizes) for run in runs}
    assert ("vit_tiny_patch16_224", "imagenet", (96, 96, *[48] * 6)) in kinds
    for name, stem, sizes in kinds:
        check_image_sizes(build_backbone(name, stem=stem, image_size=sizes[0]), sizes)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_called_as_a_recipe_is_that_recipe(row: Row) -> None:
    if row.name in shipped_recipes():
        assert (row.recipe, row.overrides) == (row.name, ())


@pytest.mark.parametrize("name", [name for name in (*shipped_recipes(), *catalogue()) if "distill" in name])
def test_no_recipe_has_a_teacher_that_outruns_its_prior(name: str) -> None:
    run = load_config(name)
    assert stale_notice(run, 6000 // run.batch_size) is None  # Imagenette


def test_two_rows_of_a_table_are_two_runs() -> None:
    by_table: dict[tuple[str, str], list[tuple[str, str, tuple[str, ...]]]] = {}
    for row in ROWS:
        by_table.setdefault((row.paper, row.table), []).append((row.recipe, row.data, row.overrides))
    for runs in by_table.values():
        # ImageNet-100 is measured on the run of ImageNet.
        assert len(set(runs)) >= len(runs) - 1


def test_overrides_come_behind_those_of_the_row() -> None:
    assert load_config("hydes_stl10_kappa_10").method.kappa == 10.0
    assert load_config("hydes_stl10_kappa_10", ["method.kappa=5"]).method.kappa == 5


def test_imsvds_rows_are_trained_as_the_paper_says() -> None:
    for row in ROWS:
        if row.recipe == "imsvd_imagenet":
            run = load_config(row.name)
            assert run.optimizer.name == "lars"
            assert run.optimizer.lr == pytest.approx(0.6 * run.batch_size / 256)
            assert (run.optimizer.weight_decay, run.schedule.warmup_epochs) == (1e-6, 10)


def test_the_evaluation_asks_for_what_the_paper_measured() -> None:
    rows = catalogue()
    assert rows["hydes_imagenet100"].evaluate_command == (
        "viewmill evaluate RUN --train IMAGENET100 --on IMAGENET100_TEST --tasks knn,linear,crops@lightly"
    )
    assert rows["imsvd_imagenet_knn"].evaluate_command.endswith("--tasks knn@20,knn@200")
    assert rows["imsvd_imagenet_100"].evaluate_command.endswith("--tasks linear,crops@imagenet")
    assert rows["hydes_stl10_kappa_10"].evaluate_command.endswith("--tasks knn,linear")
    assert rows["distill_prior"].evaluate_command.endswith("--tasks knn,linear")


def test_the_evaluation_has_every_task_that_it_asks_for() -> None:
    for row in ROWS:
        parse_tasks(row.evaluate_command.partition("--tasks ")[2].split(","))


def test_an_unknown_name_is_answered_with_the_nearest_row() -> None:
    with pytest.raises(ConfigError, match="row of the papers' tables such as hydes_stl10_kappa_10, which"):
        load_config("hydes_stl10_kapa_10")


def test_a_name_in_two_papers_is_refused_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "title: T\ntables:\n- {table: I, recipe: demo, data: D, rows: {one: {row: R}}}\n"
    (tmp_path / "papers").mkdir()
    for name in ("first", "second"):
        (tmp_path / "papers" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(catalogue_module.resources, "files", lambda package: tmp_path)
    with pytest.raises(ConfigError, match=r"second\.yaml: the row one is one of first too"):
        catalogue.__wrapped__()


def test_a_wrong_key_of_a_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("title: T\ntables: [{table: I, recipe: demo, data: D, row: {}}]\n")
    with pytest.raises(ConfigError, match=r"paper\.yaml: tables\.0\.rows: Field required"):
        rows_of(tmp_path / "paper.yaml")
