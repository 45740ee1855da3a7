"""Diagnoses by a whole data set, and prototypes made anew in training, on one rank and on two."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from viewmill.engine.evaluation.features import extract_all
from viewmill.engine.passes import diagnosis
from viewmill.engine.passes.diagnosis import diagnose, parts_of
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.run import run_pass
from viewmill.engine.telemetry import read_lines
from viewmill.engine.world import World
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.commands import viewmill_on_a_rank
from tests.engine.passes.diagnosis_on_ranks import (
    CLUSTERS,
    SAMPLES,
    figures_of,
    newest,
    on_a_rank,
    subject_in,
    train_one,
)
from tests.engine.tiny import tiny_data_set, wave
from tests.support import run_ranks

pytestmark = pytest.mark.slow
QUICK = ["--executor", "reference", "--num-threads", "1", "--device", "cpu", "--batch-size", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_data_set(tmp_path_factory.mktemp("diagnosis"), count=SAMPLES))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: str, world: World) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("distill", "imsvd"):
        train_one(name, data, f"{folder}/{name}", world)
    return {name: f"{folder}/{name}" for name in ("distill", "imsvd")}


@pytest.fixture(scope="module")
def alone(runs: dict[str, str], data: str, world: World) -> dict[str, Any]:
    return {name: figures_of(run, data, world) for name, run in runs.items()}


@pytest.fixture(scope="module")
def of_two(
    runs: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return f"{folder}/two", run_ranks(2, on_a_rank, data, str(folder), runs)


def rows_of(run: str, data: str, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of all images and of their mirror images, float64."""
    subject = subject_in(run)

    class Embedded(torch.nn.Module):
        num_features = subject.widths[1]

        def __init__(self, mirrored: bool) -> None:
            super().__init__()
            self.mirrored = mirrored

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return subject.embed(subject.represent(images.flip(3) if self.mirrored else images))

    with Dataset.open(data) as dataset:
        reading = Reading(world, "reference", num_threads=1, batch_size=8)
        found = extract_all([Embedded(False), Embedded(True)], dataset, subject.views, reading)
    plain, mirrored = (one.features.double().numpy() for one in found)
    return plain, mirrored


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} as {".a.b.0": 1}."""
    if isinstance(tree, dict):
        return {k: v for key, below in tree.items() for k, v in flat(below, f"{name}.{key}").items()}
    if isinstance(tree, list):
        return {k: v for key, below in enumerate(tree) for k, v in flat(below, f"{name}.{key}").items()}
    return {name: tree}


@pytest.mark.parametrize("method", ["distill", "imsvd"])
def test_two_ranks_find_what_one_finds(
    alone: dict[str, Any], of_two: tuple[str, list[dict[str, Any]]], method: str
) -> None:
    expected = flat(alone[method])
    for found in of_two[1]:
        assert flat(found[method]).keys() == expected.keys()
        for name, value in flat(found[method]).items():
            # Batches of other images: float32 products in another order.
            assert value == (
                pytest.approx(expected[name], rel=2e-4, abs=2e-6)
                if isinstance(value, float)
                else expected[name]
            ), name


def test_prototypes_made_anew_on_two_ranks_are_those_of_one(
    runs: dict[str, str], of_two: tuple[str, list[dict[str, Any]]]
) -> None:
    one, two = (read_lines(Path(run) / "events.jsonl") for run in (runs["distill"], of_two[0]))
    passes = [[event for event in lines if event["event"] == "full_pass"] for lines in (one, two)]
    assert [event["step"] for event in passes[0]] == [2, 4]
    for ours, theirs in zip(*passes, strict=True):
        for name in ("counted", "prototype_fit", "empty_prototypes", "prototype_cosine", "prototype_overlap"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3)
    ours, theirs = newest(runs["distill"]), newest(of_two[0])
    for name in ("teacher.head.directions", "method.statistic.mean"):
        torch.testing.assert_close(theirs.buffers()[name], ours.buffers()[name], rtol=1e-2, atol=1e-3)
    name = "method.head.directions"
    torch.testing.assert_close(theirs.read_full()[name], ours.read_full()[name], rtol=1e-2, atol=1e-3)


def test_the_joint_figures_are_those_of_their_definitions(
    runs: dict[str, str], data: str, alone: dict[str, Any], world: World
) -> None:
    found = alone["imsvd"]["figures"]["joint"]
    q, mirrored = (np.exp(z).reshape(SAMPLES, 4, 3) for z in rows_of(runs["imsvd"], data, world))
    q, mirrored = (p / p.sum(axis=2, keepdims=True) for p in (q, mirrored))
    disagreement = [-math.log(float(q[i, m] @ mirrored[i, m])) for i in range(SAMPLES) for m in range(4)]
    assert found["invariance_with_mirror"] == pytest.approx(np.mean(disagreement), rel=1e-4)
    marginals = q.mean(axis=0)
    single = -(marginals * np.log(marginals)).sum(axis=1)
    assert found["diagonal_entropy"] == pytest.approx(-single.mean(), rel=1e-4)
    information = np.zeros((4, 4))
    for m1 in range(4):
        for m2 in range(4):
            if m1 != m2:
                pair = sum(np.outer(one[m1], one[m2]) for one in q) / SAMPLES
                information[m1, m2] = single[m1] + single[m2] + (pair * np.log(pair)).sum()
    assert found["mutual_information"] == pytest.approx(information.sum() / 12, rel=1e-3, abs=1e-7)
    np.testing.assert_allclose(
        np.array(alone["imsvd"]["tensors"]["joint.pair_information"]), information, rtol=1e-3, atol=1e-7
    )
    assert found["largest_pairs"][0]["mutual_information"] == pytest.approx(information.max(), rel=1e-3)
    assert found["one_hot"]["0.9"] == (q.max(axis=2) > 0.9).mean()
    with Dataset.open(data) as dataset:
        keys = dataset.keys(np.arange(SAMPLES))
    best = [[[keys[i] for i in np.argsort(-q[:, m, d])[:5]] for d in range(3)] for m in range(4)]
    assert found["exemplars"] == best
    tensors = alone["imsvd"]["tensors"]
    every_unit = q.reshape(SAMPLES, 12)
    np.testing.assert_allclose(
        tensors["joint.corner"], every_unit.T @ every_unit / SAMPLES, rtol=1e-4, atol=1e-7
    )
    highest = -np.sort(-every_unit, axis=0)[:5]
    np.testing.assert_allclose(tensors["joint.exemplar_scores"], highest, rtol=1e-4)
    np.testing.assert_array_equal(tensors["joint.exemplar_ids"], np.argsort(-every_unit, axis=0)[:5])


def test_purity_and_mutual_information_are_those_of_the_clusters_and_labels(
    runs: dict[str, str], data: str, alone: dict[str, Any], world: World
) -> None:
    head = subject_in(runs["distill"]).head
    assert head is not None
    features = torch.from_numpy(rows_of(runs["distill"], data, world)[0]).float()
    with torch.no_grad(), Dataset.open(data) as dataset:
        clusters = head.logits(features).argmax(dim=1).tolist()
        classes = dataset.labels(np.arange(SAMPLES)).tolist()
    pairs = list(zip(clusters, classes, strict=True))

    def entropy(of: list[Any]) -> float:
        shares = [of.count(one) / SAMPLES for one in set(of)]
        return -sum(share * math.log(share) for share in shares)

    found = alone["distill"]["figures"]["labels"]
    most = [max(pairs.count((cluster, label)) for label in set(classes)) for cluster in set(clusters)]
    assert found["purity"] == pytest.approx(sum(most) / SAMPLES)
    shared = entropy(clusters) + entropy(classes) - entropy(pairs)
    mean = (entropy(clusters) + entropy(classes)) / 2
    assert found["normalized_mutual_information"] == pytest.approx(shared / mean, abs=1e-9)
    assert (found["clusters_used"], found["classes"]) == (len(set(clusters)), len(set(classes)))


def test_without_labels_there_is_no_purity(runs: dict[str, str], world: World, tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(wave(number)).save(tmp_path / f"{number}.png")
    convert(tmp_path, tmp_path.parent / "unlabelled")
    data = str(tmp_path.parent / "unlabelled")
    assert "labels" not in figures_of(runs["distill"], data, world)["figures"]
    with pytest.raises(ValueError, match="3 of 3 images have no label to compare clusters with"):
        figures_of(runs["distill"], data, world, parts=["labels"])


def test_the_gap_of_centring_is_that_of_the_whole_data_set(
    runs: dict[str, str], data: str, alone: dict[str, Any], world: World
) -> None:
    head = subject_in(runs["distill"]).head
    assert head is not None
    features = torch.from_numpy(rows_of(runs["distill"], data, world)[0]).float()
    with torch.no_grad():
        logits = head.logits(features).double().numpy()
    for gap in alone["distill"]["figures"]["jensen"]["gaps"]:
        t = np.exp(logits / gap["temperature"])
        t = t / t.sum(axis=1, keepdims=True)
        by_prior = t / t.mean(axis=0)
        by_center = np.exp((logits - logits.mean(axis=0)) / gap["temperature"])
        by_prior, by_center = (p / p.sum(axis=1, keepdims=True) for p in (by_prior, by_center))
        assert gap["largest_difference"] == pytest.approx(
            np.abs(by_prior - by_center).max(), rel=1e-2, abs=1e-6
        )
    told = alone["distill"]["figures"]["prior"]
    assert told["samples"] == SAMPLES
    assert told["agreement"]["streaming"]["mean_square_z"] is not None
    assert len(alone["distill"]["tensors"]["em.prototypes"]) == CLUSTERS


def test_a_diagnosis_that_was_killed_goes_on_where_it_stood(
    runs: dict[str, str], data: str, tmp_path: Path, alone: dict[str, Any], world: World
) -> None:
    subject, calls = subject_in(runs["imsvd"]), []

    def stopping(images: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 5:  # each batch also has its mirror images
            raise KeyboardInterrupt
        return subject.represent(images)

    doomed = diagnosis.Subject(**{**vars(subject), "represent": stopping})
    reading = Reading(world, "reference", num_threads=1, batch_size=4)
    with Dataset.open(data) as dataset, pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "run_pass", lambda *a, **o: run_pass(*a, **o, save_every=1))
        with pytest.raises(KeyboardInterrupt):
            diagnose(doomed, dataset, reading=reading, folder=tmp_path / "state")
        found, report = diagnose(subject, dataset, reading=reading, folder=tmp_path / "state")
    assert report.resumed_at == 8
    assert found.figures == alone["imsvd"]["figures"]


def test_what_a_checkpoint_has_no_figures_for_is_refused(
    runs: dict[str, str], data: str, world: World
) -> None:
    assert parts_of(subject_in(runs["imsvd"])) == ("mean", "joint")
    with pytest.raises(
        ValueError, match=r"has no figures for prior, em; a checkpoint of imsvd .* mean, joint"
    ):
        figures_of(runs["imsvd"], data, world, parts=["prior", "em"])
    with pytest.raises(ValueError, match="a subsample of 22 of the 21 samples"):
        figures_of(runs["imsvd"], data, world, subsample=22)


def test_the_command_prints_and_keeps_what_it_found(
    runs: dict[str, str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: dict[str, Any]
) -> None:
    out = tmp_path / "found.json"
    words = ["diagnose", runs["distill"], "--data", data, "--out", str(out), *QUICK]
    assert run_app(app, [*words, "--prior", "--jensen", "--temperature", "0.2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prior"] == json.loads(out.read_text())["prior"]
    assert [gap["temperature"] for gap in told["jensen"]["gaps"]] == [0.2]
    assert "em" not in told
    kept = load_file(out.with_suffix(".safetensors"))
    assert kept["prior.log_prior"].tolist() == pytest.approx(
        alone["distill"]["tensors"]["prior.log_prior"], rel=1e-4
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "found.safetensors"]
    assert run_app(app, words) == 0
    shown = capsys.readouterr().out
    for word in ("entropy", "kmeans", "streaming", "temperature 25", "embedding"):
        assert word in shown
    assert run_app(app, [*words, "--joint"]) == 2
    assert "has no figures for joint" in capsys.readouterr().err


def test_the_command_on_two_ranks_finds_the_same(
    runs: dict[str, str], data: str, tmp_path: Path, alone: dict[str, Any]
) -> None:
    out = tmp_path / "found.json"
    words = ["diagnose", runs["imsvd"], "--data", data, "--out", str(out), *QUICK]
    assert [code for code, _ in run_ranks(2, viewmill_on_a_rank, words)] == [0, 0]
    found, expected = flat(json.loads(out.read_text())), flat(alone["imsvd"]["figures"])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value == (
            pytest.approx(expected[name], rel=2e-4, abs=2e-6) if isinstance(value, float) else expected[name]
        ), name
