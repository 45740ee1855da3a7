"""Evaluation as a whole, on a run of seconds: what it writes, that its numbers are right, what it refuses."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from viewmill.engine.backbones import build_backbone
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.evaluation import contenders
from viewmill.engine.evaluation.backbone_source import load_source
from viewmill.engine.evaluation.data_sets import read_class_names
from viewmill.engine.evaluation.evaluate import evaluate
from viewmill.engine.evaluation.features import extract
from viewmill.engine.evaluation.geometry.geometry import geometry_of
from viewmill.engine.evaluation.knn import nearest, vote
from viewmill.engine.evaluation.scores import (
    compare,
    independent_standard_error,
    paired_standard_error,
    score,
)
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.engine.evaluation.evaluation_on_ranks import SETTINGS, evaluated, figures_of
from tests.engine.evaluation.semantics.small_wordnet import small_files
from tests.engine.tiny import tiny_config, tiny_data_set, wave
from tests.support import run_ranks

ALONE = World(0, 1, 0, torch.device("cpu"))
TASKS = ("knn@5", "knn@9", "linear")
CLASSES = 4
FIGURES = ("geometry", "wordnet", "diagnosis")  # tasks without an accuracy


class Sets(NamedTuple):
    train: Dataset
    test: Dataset


def data_set(folder: Path, pictures: dict[str, int]) -> Path:
    """A data set of these pictures by path, each the wave of its number."""
    for name, number in pictures.items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(wave(number)).save(path)
    convert(folder / "pictures", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """40 pictures to learn from and 21 others of the same four classes."""
    folder = tmp_path_factory.mktemp("evaluate")
    others = {f"class{number % CLASSES}/{number}.png": number for number in range(1000, 1021)}
    return tiny_data_set(folder / "train", 40), data_set(folder / "test", others)


@pytest.fixture(scope="module")
def sets(paths: tuple[Path, Path]) -> Iterator[Sets]:
    with Dataset.open(paths[0]) as known, Dataset.open(paths[1]) as asked:
        yield Sets(known, asked)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, paths: tuple[Path, Path]) -> Path:
    """A run of two epochs with a checkpoint each."""
    threads, world = torch.get_num_threads(), start_world("cpu")
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    train(tiny_config(epochs=2), paths[0], folder, world=world)
    stop_world(world)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def entries(run: Path, sets: Sets) -> list[dict[str, Any]]:
    return evaluate(run, *sets, TASKS, world=ALONE, **SETTINGS)


@pytest.fixture(scope="module")
def meanings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A WordNet of a few nouns, and which of them the four classes are."""
    folder = tmp_path_factory.mktemp("meanings")
    for name, data in zip(("data.noun", "index.noun"), small_files(), strict=True):
        (folder / name).write_bytes(data)
    nouns = ("dog", "otter", "boat", "animal")
    table = folder / "synsets.yaml"
    table.write_text("".join(f"class{label}: {noun}.n.01\n" for label, noun in enumerate(nouns)))
    return {"wordnet": folder, "synsets": table}


@pytest.fixture(scope="module")
def figures(
    run: Path, sets: Sets, meanings: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """An evaluation by the tasks without an accuracy, and its summary."""
    out = tmp_path_factory.mktemp("figures")
    return out, evaluate(run, *sets, FIGURES, world=ALONE, out=out, **SETTINGS, **meanings)


def details(run: Path, group: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation" / f"{group}.json").read_text())
    return found


def nearest_classes(run: Path, sets: Sets, k: int) -> list[int]:
    """Weighted votes in float64, from the exported weights."""
    backbone = build_backbone("test_resnet", image_size=32)
    backbone.load_state_dict(load_file(run / "export" / "backbone.safetensors"))
    bank, queries = (extract(backbone, each, image_size=32, world=ALONE, **SETTINGS) for each in sets)
    rows = bank.features.double().numpy()
    predicted = []
    for query in queries.features.double().numpy():
        cosine = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
        votes = [0.0] * CLASSES
        for row in np.argsort(-cosine)[:k]:
            votes[bank.labels[row]] += math.exp(cosine[row] / 0.07)
        predicted.append(int(np.argmax(votes)))
    return predicted


def test_the_summary_holds_an_entry_a_task_with_every_field(run: Path, entries: list[dict[str, Any]]) -> None:
    assert json.loads((run / "evaluation" / "summary.json").read_text()) == entries
    assert [entry["task"] for entry in entries] == list(TASKS)
    fields = {"task", "n", "trained", "untrained", "floors", "standard_error", "z_score"}
    for entry in entries:
        assert set(entry) == fields | {"trained_top5", "untrained_top5"}
        assert entry["n"] == 21
        assert set(entry["floors"]) == {"raw_pixels", "histogram"}
        assert all(
            0 <= share <= 1 for share in (entry["trained"], entry["untrained"], *entry["floors"].values())
        )
        assert entry["trained_top5"] is None  # four classes: it would always be 1


@pytest.mark.parametrize("k", [5, 9])
def test_the_trained_accuracy_is_that_of_the_exported_backbone(
    run: Path, sets: Sets, entries: list[dict[str, Any]], k: int
) -> None:
    labels = sets.test.labels(range(sets.test.num_samples)).tolist()
    hits = [found == label for found, label in zip(nearest_classes(run, sets, k), labels, strict=True)]
    entry = next(entry for entry in entries if entry["task"] == f"knn@{k}")
    assert entry["trained"] == pytest.approx(sum(hits) / len(hits))


def test_each_task_takes_the_best_of_three_untrained_seeds(run: Path, entries: list[dict[str, Any]]) -> None:
    by_task = {task["task"]: task for group in ("knn", "linear") for task in details(run, group)["tasks"]}
    for entry in entries:
        found = by_task[entry["task"]]
        seeds = {name: one["top1"] for name, one in found["contenders"].items() if name != "trained"}
        assert list(seeds) == [f"untrained seed {seed}" for seed in (0, 1, 2)]
        assert len(set(seeds.values())) > 1
        assert entry["untrained"] == max(seeds.values()) == seeds[found["best_untrained"]]
        assert found["contenders"]["trained"]["top1"] == entry["trained"]
        assert found["trained_minus_untrained"]["standard_error"] == entry["standard_error"]


def test_the_details_say_what_was_measured(run: Path, sets: Sets, entries: list[dict[str, Any]]) -> None:
    for group in ("knn", "linear"):
        found = details(run, group)
        assert (found["step"], found["source"]) == (10, "step_00000010")
        assert (found["views"], found["executor"]) == ("eval@32", "reference")
        assert found["classes"] == [f"class{label}" for label in range(CLASSES)]
        assert found["data_sets"]["train"] == {"images": 40, "data_set_hash": sets.train.data_set_hash}
        assert found["data_sets"]["test"] == {"images": 21, "data_set_hash": sets.test.data_set_hash}
        assert found["floors"]["raw_pixels"] == entries[0]["floors"]["raw_pixels"]
        for task in found["tasks"]:
            trained = task["contenders"]["trained"]
            labels = sets.test.labels(range(21))
            shares = np.bincount(labels, minlength=CLASSES) / 21
            assert task["protocol"].startswith(group)
            assert np.dot(trained["per_class_top1"], shares) == pytest.approx(trained["top1"], abs=1e-5)
    assert details(run, "linear")["tasks"][0]["contenders"]["trained"]["held_out"] == 8
    assert str(run.parent) not in (run / "evaluation" / "knn.json").read_text()


def test_features_are_computed_once_for_the_tasks_of_later_calls_too(
    run: Path,
    sets: Sets,
    entries: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("extract_all", "thumbnails"):
        monkeypatch.setattr(contenders, name, None)  # whoever calls it fails
    later = ("knn@12", "geometry")
    assert not set(later) & set(TASKS)
    again = evaluate(copy, *sets, TASKS[:2] + later, world=ALONE, **SETTINGS)
    assert again[:2] == entries[:2]
    assert [entry["task"] for entry in again[2:]] == list(later)


def test_a_cached_file_with_a_flipped_bit_is_made_again(
    run: Path, sets: Sets, entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for path in (copy / "evaluation" / "cache").glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-100] ^= 64
        path.write_bytes(data)
    assert evaluate(copy, *sets, TASKS[:2], world=ALONE, **SETTINGS) == entries[:2]
    for path in (copy / "evaluation" / "cache").iterdir():
        assert path.read_bytes() == (run / "evaluation" / "cache" / path.name).read_bytes()


def test_an_earlier_checkpoint_gives_its_own_numbers(run: Path, sets: Sets, tmp_path: Path) -> None:
    earlier = run / "checkpoints" / "step_00000005"
    evaluate(earlier, *sets, ("knn@5",), world=ALONE, out=tmp_path, **SETTINGS)
    found = details(tmp_path, "knn")
    assert found["step"] == 5
    assert not (tmp_path / "evaluation" / "linear.json").exists()
    evaluate(run, *sets, ("linear",), world=ALONE, out=tmp_path, **SETTINGS)
    assert details(tmp_path, "linear")["weights_hash"] != found["weights_hash"]
    # An evaluation takes the place of the one before it.
    assert not (tmp_path / "evaluation" / "knn.json").exists()


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(run: Path, sets: Sets, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "checkpoints" / "step_00000010" / "rank_0.safetensors").write_bytes(b"cut short")
    evaluate(copy, *sets, ("knn@5",), world=ALONE, **SETTINGS)
    found = details(copy, "knn")
    assert found["step"] == 5
    assert "step_00000010" in found["checkpoints_passed_over"][0]
    with pytest.raises(CheckpointError, match="step_00000010"):
        load_source(copy / "checkpoints" / "step_00000010", ALONE)


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(
    run: Path,
    paths: tuple[Path, Path],
    entries: list[dict[str, Any]],
    figures: tuple[Path, list[dict[str, Any]]],
    meanings: dict[str, Path],
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "evaluation" / "cache")
    expected = figures_of([*entries, *figures[1]])
    found = run_ranks(2, evaluated, str(copy), *map(str, paths), TASKS + FIGURES, meanings)
    # Batches of other images: the representations are float32.
    assert found == [pytest.approx(expected, rel=1e-4, abs=1e-6)] * 2
    assert json.loads((copy / "evaluation" / "summary.json").read_text())[0]["n"] == 21


def test_timm_weights_come_from_the_local_cache(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_backbone("test_resnet", image_size=160)
    state = {**whole.state_dict(), "fc.weight": torch.zeros(10, 96), "fc.bias": torch.zeros(10)}
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repository, file: str(tmp_path / file)
    )
    found = load_source("timm:test_resnet", ALONE)
    assert (found.image_size, found.mean) == (160, (0.5, 0.5, 0.5))
    assert torch.equal(found.backbone.state_dict()["bn1.weight"], whole.state_dict()["bn1.weight"])
    with pytest.raises(ValueError, match="--out"):
        evaluate("timm:test_resnet", *sets, ("knn@5",), world=ALONE, **SETTINGS)
    evaluate("timm:test_resnet", *sets, ("knn@5",), world=ALONE, image_size=32, out=tmp_path, **SETTINGS)
    assert details(tmp_path, "knn")["views"] == "eval@32"


def test_timm_weights_that_are_not_there_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(FileNotFoundError, match="huggingface-cli download timm/test_resnet"):
        load_source("timm:test_resnet", ALONE)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("timm:resnet19", ValueError, "'resnet19' is no timm model; the nearest is"),
        ("hub:resnet18", ValueError, "no such kind of source"),
        ("nowhere", FileNotFoundError, "nowhere: neither a run"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_source(source, ALONE)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("knn", "linaer"), "unknown task 'linaer'; expected knn, knn@K .* wordnet or diagnosis"),
        (("wordnet",), r"no WordNet synset is known for the classes class0, class1, class2 and 1 more"),
        (("knn@0",), "unknown task 'knn@0'"),
        ((), "no task is given"),
        (("knn",), "knn@200 needs 200 training images, .* has 40; take a smaller k, such as .*knn@20,linear"),
    ],
)
def test_tasks_that_cannot_be_done_are_refused(
    run: Path, sets: Sets, meanings: dict[str, Path], tasks: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(run, *sets, tasks, world=ALONE, wordnet=meanings["wordnet"], **SETTINGS)


def test_tasks_without_an_accuracy_have_figures_in_the_summary(
    run: Path, sets: Sets, figures: tuple[Path, list[dict[str, Any]]]
) -> None:
    out, found = figures
    assert json.loads((out / "evaluation" / "summary.json").read_text()) == found
    assert [entry["task"] for entry in found] == list(FIGURES)
    for entry in found:
        assert (entry["n"], entry["trained"], entry["floors"]) == (21, None, {})
    backbone = load_source(run, ALONE).backbone
    features = extract(backbone, sets.test, image_size=32, world=ALONE, **SETTINGS)
    expected = geometry_of(features.features, features.labels, CLASSES, ALONE)
    measures = found[0]["measures"]
    assert {name: both["trained"] for name, both in measures.items()} == pytest.approx(expected, rel=1e-5)
    seeds = details(out, "geometry")["tasks"][0]["contenders"]
    assert (
        measures["anisotropy"]["untrained"]
        == sorted(one["anisotropy"] for name, one in seeds.items() if name != "trained")[1]
    )


def test_of_semantics_the_summary_has_the_best_seed_and_the_details_have_p_values(
    figures: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, (_, entry, _) = figures
    task = details(out, "semantics")["tasks"][0]
    assert set(entry["measures"]) == {"wup", "lch", "cophenetic", "cophenetic_distances"}
    for name, both in entry["measures"].items():
        trained = task["correlations"]["trained"][name]
        assert both["trained"] == trained["correlation"]
        # Of 999 permutations of four classes some are the classes as they are.
        assert 1 / 1000 < trained["p_permuted"] <= 1
        assert both["untrained"] == max(
            one[name] for contender, one in task["contenders"].items() if contender != "trained"
        )


def test_the_diagnosis_is_that_of_the_checkpoints_method(
    figures: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, (_, _, entry) = figures
    found = details(out, "diagnosis")["tasks"][0]
    assert found["method"] == "hydes"
    assert entry["measures"]["mean.representation.dim"] == {"trained": 96.0, "untrained": None}
    assert load_file(out / "evaluation" / "diagnosis.safetensors")["mean.representation"].shape == (96,)


def test_tasks_of_the_test_images_alone_read_no_features_of_the_others(
    run: Path, sets: Sets, figures: tuple[Path, list[dict[str, Any]]]
) -> None:
    assert len(list((figures[0] / "evaluation" / "cache").glob("*.safetensors"))) == 4  # no thumbnails either
    assert not (figures[0] / "evaluation" / "knn.json").exists()


def test_the_command_shows_figures_in_tables_of_their_own_and_says_where_wordnet_is_not(
    run: Path,
    paths: tuple[Path, Path],
    meanings: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", str(run), "--train", str(paths[0]), "--on", str(paths[1]), "--out", str(tmp_path)]
    words += ["--tasks", "geometry,wordnet", "--executor", "reference", "--device", "cpu"]
    words += ["--synsets", str(meanings["synsets"]), "--wordnet"]
    assert run_app(app, [*words, str(meanings["wordnet"])]) == 0
    shown = capsys.readouterr().out
    for expected in ("geometry, 21 images", "center norm", "wordnet, 21 images", "cophenetic"):
        assert expected in shown
    assert "top-1 accuracy" not in shown
    assert run_app(app, [*words, str(tmp_path / "nowhere.zip")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "nowhere.zip: neither a folder nor a zip with the WordNet files" in said
    assert said.count("\n") == 1


def test_a_subset_of_the_classes_is_an_evaluation_of_their_images(
    run: Path, sets: Sets, tmp_path: Path
) -> None:
    names = ["class3", "class1"]
    (entry,) = evaluate(run, *sets, ("knn@5",), world=ALONE, out=tmp_path, classes=names, **SETTINGS)
    bank, queries = (
        extract(load_source(run, ALONE).backbone, each, image_size=32, world=ALONE, **SETTINGS)
        for each in sets
    )
    asked, known = (each.features[(each.labels % 2) == 1] for each in (queries, bank))
    ranked = vote(nearest(asked, known, 5), bank.labels[(bank.labels % 2) == 1] // 2, 2, 0.07)
    expected = (ranked[:, 0] == queries.labels[(queries.labels % 2) == 1] // 2).double().mean().item()
    assert (entry["n"], entry["trained"]) == (len(asked), expected)
    assert details(tmp_path, "knn")["classes"] == names
    for wrong, message in (
        (["class1", "clas9"], "no class 'clas9'; the nearest is"),
        (["class1"], "two classes at least"),
        (["class1", "class1"], "each once"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(run, *sets, ("knn@5",), world=ALONE, out=tmp_path, classes=wrong, **SETTINGS)


def test_class_names_come_from_a_line_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("n01440764  # tench\n\nn02102040\n")
    assert read_class_names(str(tmp_path / "names.txt")) == ["n01440764", "n02102040"]
    assert read_class_names("cat, dog") == ["cat", "dog"]


def test_weights_alone_have_no_diagnosis(run: Path, sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diagnosis needs the method that trained it"):
        evaluate(run / "export", *sets, ("diagnosis",), world=ALONE, out=tmp_path, **SETTINGS)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (
            {"class0/a.png": 1, "class9/b.png": 2},
            "only data has class1.*; only data has class9",
        ),
        ({f"class{label}/a.png": label for label in range(4)} | {"b.png": 9}, "1 of 5 images have no label"),
    ],
)
def test_data_sets_that_do_not_belong_together_are_refused(
    run: Path, sets: Sets, tmp_path: Path, pictures: dict[str, int], message: str
) -> None:
    with Dataset.open(data_set(tmp_path, pictures)) as other, pytest.raises(ValueError, match=message):
        evaluate(run, sets.train, other, ("knn@5",), world=ALONE, **SETTINGS)


def test_the_training_images_are_no_test_set(run: Path, sets: Sets) -> None:
    with pytest.raises(ValueError, match="every image would find itself"):
        evaluate(run, sets.train, sets.train, ("knn@5",), world=ALONE, **SETTINGS)


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    correct = torch.tensor([1, 1, 1, 0, 1, 0, 1, 1]).bool()
    other = torch.tensor([1, 0, 1, 0, 0, 1, 0, 1]).bool()
    differences = [int(a) - int(b) for a, b in zip(correct, other, strict=True)]
    mean = sum(differences) / 8
    expected = math.sqrt(sum((d - mean) ** 2 for d in differences) / 7 / 8)
    assert paired_standard_error(correct, other) == pytest.approx(expected)
    assert independent_standard_error(0.75, 0.5, 8) == pytest.approx(math.sqrt((0.1875 + 0.25) / 8))


def test_backbones_that_fail_alike_have_no_z_score() -> None:
    labels = torch.tensor([0, 1, 2])
    same = score(torch.tensor([[0], [1], [1]]), labels, 3)
    assert compare(same, same)["z_score"] is None
    better = score(labels[:, None], labels, 3)
    assert compare(better, same)["difference"] == pytest.approx(1 / 3)
    assert compare(better, same)["z_score"] > 0


def test_a_score_counts_hits_by_rank_and_class() -> None:
    labels = torch.tensor([0, 1, 1, 5])
    ranked = torch.tensor([[0, 1, 2, 3, 4], [2, 1, -1, -1, -1], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4]])
    found = score(ranked, labels, 7)
    assert (found.top1, found.top5) == (0.5, 0.75)
    assert found.per_class == [1.0, 0.5, None, None, None, 0.0, None]
    assert found.correct.tolist() == [True, False, True, False]
