"""`viewmill pictures` as a whole, on an IMSVD run of seconds: what it draws, from what, what it refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from viewmill.engine.evaluation import contenders
from viewmill.engine.evaluation.backbone_source import load_source
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.evaluation.pictures import cam
from viewmill.engine.evaluation.pictures.joint import best_units, exemplars_of, joint_of, subject_in
from viewmill.engine.evaluation.pictures.scene import Scene
from viewmill.engine.passes.reading import Reading
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.pictures_command import EXAMPLE

from tests.engine.evaluation.semantics.small_wordnet import small_files
from tests.engine.tiny import tiny_config, tiny_data_set, wave

ALONE = World(0, 1, 0, torch.device("cpu"))
VARIABLES, UNITS = 4, 3
FAST = ["--executor", "host", "--num-threads", "1", "--device", "cpu", "--images", "3"]
OF_A_RESNET = "neighbours,centroids,components,joint,exemplars" + (",cam" if cam.is_installed() else "")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("pictures"), 24)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    threads, world = torch.get_num_threads(), start_world("cpu")
    folder = tmp_path_factory.mktemp("pictured") / "run"
    method = {"name": "imsvd", "variables": VARIABLES, "units": UNITS, "projector": {"hidden": 32}}
    views = {"preset": "imsvd@32", "executor": "host", "num_threads": 1}
    train(tiny_config(epochs=1, max_steps=2, method=method, views=views), data, folder, world=world)
    stop_world(world)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def scene(run: Path, data: Path, tmp_path: Path) -> Iterator[Scene]:
    with Dataset.open(data) as dataset:
        reading = Reading(ALONE, "host", num_threads=1, batch_size=8)
        yield Scene(
            load_source(run, ALONE), dataset, None, reading, image_size=None, cache=tmp_path / "cache"
        )


@pytest.fixture(scope="module")
def drawn(run: Path, data: Path) -> Path:
    """The folder of the pictures that this backbone has, but the map."""
    words = ["pictures", str(run), "--on", str(data), "--pictures", OF_A_RESNET, "--foreground"]
    assert run_app(app, [*words, *FAST]) == 0
    return run / "pictures"


def test_every_picture_is_there_in_both_themes_with_its_words(drawn: Path, run: Path, data: Path) -> None:
    entries = json.loads((drawn / "pictures.json").read_text())
    names = {entry["name"] for entry in entries}
    assert names == {*OF_A_RESNET.replace("exemplars", "exemplars-0,exemplars-1").split(",")}
    with Dataset.open(data) as dataset:
        data_hash = dataset.data_set_hash[:12]
    step = max((run / "checkpoints").glob("step_*")).name
    for entry in entries:
        assert data_hash in entry["caption"]
        assert f"run, {step} (test_resnet, weights " in entry["caption"]
        assert "viewmill pictures run --on data --pictures neighbours" in entry["caption"]
        assert str(run.parent) not in entry["caption"]
        for suffix in ("", ".dark"):
            with Image.open(drawn / f"{entry['name']}{suffix}.png") as picture:
                assert np.asarray(picture).std() > 5
    assert (drawn / "pictures.html").read_text(encoding="utf-8").count("<picture>") == len(entries)
    if cam.is_installed():  # the last stage of 32 pixels is one place, which can have no heat
        captions = {entry["name"]: entry["caption"] for entry in entries}
        assert "Of one place, and left out: layer4." in captions["cam"]
        assert "in layer3 (2 x 2 places)" in captions["exemplars-0"]


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("computed again")


def test_the_example_runs_and_features_are_computed_once(
    drawn: Path, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "extract_all", refuse)
    words = [{"RUN": str(run), "DATASET": str(data)}.get(word, word) for word in EXAMPLE.split()[1:]]
    assert run_app(app, [*words, *FAST, "--json"]) == 0


def test_the_joint_matrix_is_computed_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_in(scene)
    first = joint_of(scene, subject)
    monkeypatch.setattr("viewmill.engine.evaluation.pictures.joint.diagnose", refuse)
    torch.testing.assert_close(joint_of(scene, subject).exemplar_scores, first.exemplar_scores)


def test_the_report_has_the_pictures(drawn: Path, run: Path, tmp_path: Path) -> None:
    assert run_app(app, ["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<picture>") == len(json.loads((drawn / "pictures.json").read_text()))


def test_classes_stand_in_the_order_of_wordnet_where_it_has_them(
    run: Path, data: Path, tmp_path: Path
) -> None:
    for name, files in zip(("data.noun", "index.noun"), small_files(), strict=True):
        (tmp_path / name).write_bytes(files)
    nouns = ("dog", "boat", "otter", "animal")
    (tmp_path / "synsets.yaml").write_text(
        "".join(f"class{label}: {noun}.n.01\n" for label, noun in enumerate(nouns))
    )
    words = [
        "pictures",
        str(run),
        "--on",
        str(data),
        "--out",
        str(tmp_path),
        "--pictures",
        "centroids",
        *FAST,
    ]
    words += ["--wordnet", str(tmp_path), "--synsets", str(tmp_path / "synsets.yaml")]
    assert run_app(app, words) == 0
    (entry,) = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    assert "4 classes of data" in entry["caption"]
    assert (
        "in the order of WordNet's clusters by average linkage of 1 - Wu-Palmer similarity"
        in entry["caption"]
    )
    assert f"--wordnet {tmp_path.name} --synsets synsets.yaml" in entry["caption"]


def test_images_are_seen_in_the_order_that_is_asked_for(scene: Scene) -> None:
    seen = scene.see([5, 2, 5])
    alone = scene.see([2])
    torch.testing.assert_close(seen.inputs[0], seen.inputs[2])
    torch.testing.assert_close(seen.inputs[1], alone.inputs[0])
    assert seen.pixels.shape == (3, 32, 32, 3)
    mean, std = (torch.tensor(channel)[:, None, None] for channel in (scene.views.mean, scene.views.std))
    again = (torch.from_numpy(seen.pixels[1]).permute(2, 0, 1) / 255 - mean) / std
    assert (again - seen.inputs[1]).abs().max() < 0.5 / 255 / min(scene.views.std) + 1e-6


def test_exemplars_are_the_images_of_highest_probability(scene: Scene) -> None:
    subject = subject_in(scene)
    found = joint_of(scene, subject)
    logits = subject.embed(scene.features)
    q = logits.view(-1, VARIABLES, UNITS).softmax(dim=2).flatten(1).detach()
    for place in best_units(found, 2, 2):
        ids, scores = exemplars_of(found, place)
        assert ids.tolist() == q[:, place].sort(descending=True, stable=True).indices[: len(ids)].tolist()
        np.testing.assert_allclose(scores, q[ids, place], rtol=1e-4)
    per_unit = q.sort(dim=0, descending=True).values[:6].mean(dim=0).view(VARIABLES, UNITS)
    for variable in range(2):
        best = per_unit[variable].argmax()
        assert variable * UNITS + int(best) in best_units(found, 2, 1)


def diagnosed(run: Path, data: Path, folder: Path) -> Path:
    words = ["diagnose", str(run), "--data", str(data), "--joint", "--out", str(folder / "diagnosis.json")]
    assert (
        run_app(app, [*words, "--executor", "host", "--num-threads", "1", "--device", "cpu", "--json"]) == 0
    )
    return folder / "diagnosis.json"


def test_a_diagnosis_that_is_given_is_read_and_a_wrong_one_refused(
    scene: Scene, run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = diagnosed(run, data, tmp_path)
    beside = path.with_suffix(".safetensors")
    subject = subject_in(scene)
    made, given = joint_of(scene, subject), joint_of(scene, subject, path)
    torch.testing.assert_close(given.corner, made.corner)
    torch.testing.assert_close(given.exemplar_scores[:5], made.exemplar_scores[:5])
    whole, tensors = path.read_text(), load_file(beside)
    path.write_text(whole.replace(scene.source.name, "step_00000099"))
    with pytest.raises(ValueError, match="of step_00000099 and a data set"):
        joint_of(scene, subject, path)
    path.write_text(whole)
    save_file({name: one for name, one in tensors.items() if name != "joint.corner"}, beside)
    with pytest.raises(ValueError, match=r"lack joint\.corner; make it again"):
        joint_of(scene, subject, path)
    beside.write_bytes(b"damaged")
    with pytest.raises(RuntimeError, match="no diagnosis can be read"):
        joint_of(scene, subject, path)
    beside.unlink()
    with pytest.raises(FileNotFoundError, match="no diagnosis here"):
        joint_of(scene, subject, path)


def test_a_cached_joint_matrix_that_is_damaged_is_made_again(scene: Scene, tmp_path: Path) -> None:
    subject = subject_in(scene)
    expected = joint_of(scene, subject).corner.clone()  # the file is mapped
    for path in (tmp_path / "cache").glob("*.safetensors"):
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(bytes(damaged))
    torch.testing.assert_close(joint_of(scene, subject).corner, expected)
    assert isinstance(scene.cache, TensorCache)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pictures", "attention"], "a ResNet without a CLS token"),
        (["--pictures", "cam,hologram"], "--pictures cam,hologram: expected some of neighbours, centroids"),
        (["--pictures", ","], "expected some of"),
        (["--pictures", "cam", "--score", "class"], "needs labelled images: give --train"),
        (["--pictures", "centroids", "--order", "wordnet"], "WordNet"),
        (["--keys", "nothing/here"], "--images and --keys both say"),
        (["--image-size", "7"], "--image-size"),
    ],
    ids=["attention", "unknown", "none", "no probe", "no meanings", "both", "size"],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    words: list[str],
    message: str,
    run: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    arguments = ["pictures", str(run), "--on", str(data), "--out", str(tmp_path), *FAST, *words]
    assert run_app(app, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_weights_alone_have_no_variables(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pictures", str(run / "export"), "--on", str(data), "--out", str(tmp_path), *FAST]
    assert run_app(app, [*words, "--pictures", "joint"]) == 2
    assert "is a backbone alone, and variables are of the method" in capsys.readouterr().err


def test_images_without_labels_have_no_classes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(wave(number)).save(path)
    convert(tmp_path / "pictures", tmp_path / "data", workers=1)
    words = ["pictures", str(run), "--on", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *FAST]
    assert run_app(app, [*words, "--pictures", "centroids"]) == 2
    assert "two classes with images are needed" in capsys.readouterr().err
    assert run_app(app, [*words, "--pictures", "neighbours"]) == 0
    shutil.rmtree(tmp_path / "out")


def test_several_ranks_are_told_to_compute_features_first(run: Path, data: Path, tmp_path: Path) -> None:
    two = Reading(World(0, 2, 0, torch.device("cpu")), "host", num_threads=1)
    with Dataset.open(data) as dataset, pytest.raises(ValueError, match="drawn by one process"):
        Scene(load_source(run, ALONE), dataset, None, two, image_size=None, cache=tmp_path)
