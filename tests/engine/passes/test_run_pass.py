"""Passes over a data set: every sample is counted once, whatever happens on the way."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from viewmill.engine.passes.kmeans import spherical_kmeans
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.run import run_pass
from viewmill.engine.passes.saved import COMMIT_FILE, PASS_FILE
from viewmill.methods.moments import MomentsAccumulator
from viewmill.shards.manifest import Dataset

from tests.engine.evaluation.features_on_ranks import ColorMeans
from tests.engine.passes.passes_on_ranks import on_a_rank
from tests.engine.passes.small_pass import ALONE, VIEWS, Stopped, expected_of, rows_of, small_pass, stopping
from tests.engine.tiny import tiny_data_set
from tests.pipelines.damage import damaged
from tests.support import run_ranks

SAMPLES = 23


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("passes"), count=SAMPLES)


@pytest.fixture
def dataset(data: Path) -> Iterator[Dataset]:
    with Dataset.open(data) as opened:
        yield opened


def assert_found(found: dict[str, Tensor], expected: dict[str, Any], rtol: float) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), np.asarray(values), rtol=rtol)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_one_read_gives_every_accumulator_the_whole_data_set(dataset: Dataset, batch_size: int) -> None:
    report, found = small_pass(dataset, batch_size=batch_size)
    # Pixels are float32, and so are the means of an image that the model gives.
    assert_found(found, expected_of(dataset, list(range(SAMPLES))), rtol=1e-5)
    assert (report.num_samples, report.counted, report.resumed_at) == (SAMPLES, SAMPLES, 0)
    assert report.images_per_s == pytest.approx(SAMPLES / report.seconds)


def test_a_pass_may_be_over_some_samples(dataset: Dataset) -> None:
    _, found = small_pass(dataset, ids=[20, 3, 8, 11])
    assert_found(found, expected_of(dataset, [3, 8, 11, 20]), rtol=1e-5)


def test_a_pass_stopped_after_any_batch_goes_on_to_the_same_numbers(dataset: Dataset, tmp_path: Path) -> None:
    _, expected = small_pass(dataset)
    for stopped_after in range(8):
        folder = tmp_path / str(stopped_after)
        with pytest.raises(Stopped):
            small_pass(dataset, folder=folder, embed=stopping(stopped_after), save_every=2)
        report, found = small_pass(dataset, folder=folder, save_every=2)
        assert report.resumed_at == stopped_after // 2 * 6
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert [path.name for path in folder.iterdir()] == [f"position_{SAMPLES:012d}"]


def test_a_finished_pass_is_not_read_again(dataset: Dataset, tmp_path: Path) -> None:
    _, first = small_pass(dataset, folder=tmp_path / "pass")
    report, again = small_pass(dataset, folder=tmp_path / "pass", embed=stopping(0))
    assert report.resumed_at == SAMPLES
    assert report.images_per_s == 0
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_another_batch_size_goes_on_with_the_same_pass(dataset: Dataset, tmp_path: Path) -> None:
    _, expected = small_pass(dataset)
    with pytest.raises(Stopped):
        small_pass(dataset, folder=tmp_path / "pass", embed=stopping(4))
    _, found = small_pass(dataset, folder=tmp_path / "pass", batch_size=5)
    assert_found(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"about": {"weights": "b"}}, "whose model was {'weights': 'a'}, and is {'weights': 'b'} now"),
        ({"ids": [1, 2, 3]}, "whose samples was all, and is"),
    ],
)
def test_a_folder_of_another_pass_is_refused(
    dataset: Dataset, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    small_pass(dataset, folder=tmp_path / "pass", about={"weights": "a"})
    with pytest.raises(ValueError, match="holds another pass") as refused:
        small_pass(dataset, folder=tmp_path / "pass", **{"about": {"weights": "a"}, **options})
    assert message in str(refused.value)


@pytest.mark.parametrize("name", [PASS_FILE, COMMIT_FILE, "rank_0.safetensors"])
def test_a_damaged_state_is_passed_over_and_never_believed(
    dataset: Dataset, tmp_path: Path, name: str
) -> None:
    _, expected = small_pass(dataset)
    for stopped_after in (2, 4):
        with pytest.raises(Stopped):
            small_pass(dataset, folder=tmp_path / "pass", embed=stopping(stopped_after))
        shutil.copytree(tmp_path / "pass", tmp_path / "kept", dirs_exist_ok=True)
    older, newer = sorted((tmp_path / "kept").iterdir())
    damage(newer / name)
    report, found = small_pass(dataset, folder=tmp_path / "kept")
    assert report.resumed_at == int(older.name.removeprefix("position_"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    (final,) = (tmp_path / "kept").iterdir()
    damage(final / name)
    with pytest.raises(ValueError, match=r"no state is whole .*; remove the folder"):
        small_pass(dataset, folder=tmp_path / "kept")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_samples_that_cannot_be_used_are_left_out_and_named(
    data: Path, dataset: Dataset, tmp_path: Path
) -> None:
    path = damaged(data, tmp_path / "damaged", flipped={2, 9, 10, 11}, cut={4, 22})
    bad = [2, 4, 9, 10, 11, 22]
    expected = expected_of(dataset, [sample for sample in range(SAMPLES) if sample not in bad])
    with Dataset.open(path) as broken:
        keys = dict(zip(bad, broken.keys(bad), strict=True))
        for stopped_after in (None, 0, 1, 5):
            folder = tmp_path / f"pass {stopped_after}"
            if stopped_after is not None:
                with pytest.raises(Stopped):
                    small_pass(broken, folder=folder, embed=stopping(stopped_after))
            report, found = small_pass(broken, folder=folder)
            assert_found(found, expected, rtol=1e-5)
            assert report.counted == SAMPLES - len(bad)
            assert sorted(report.left_out) == bad
            assert all(f"'{keys[sample]}'" in report.left_out[sample] for sample in bad)
        with pytest.raises(RuntimeError, match=r"6 samples cannot be used, 5 may be left out: .*verify"):
            small_pass(broken, max_left_out=5)


def test_a_row_that_is_not_finite_names_the_sample(dataset: Dataset) -> None:
    def embed(images: Tensor) -> dict[str, Tensor]:
        rows = rows_of(images)
        rows["prior"][1, 2] = float("nan")
        return rows

    key = dataset.keys([1])[0]
    with pytest.raises(RuntimeError, match=f"sample '{key}' has 'prior' that are not finite"):
        small_pass(dataset, embed=embed)


def test_wrong_rows_and_used_accumulators_are_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"embed gives \['mean'\], the accumulators are \['mean', 'prior'\]"):
        small_pass(dataset, embed=lambda images: {"mean": rows_of(images)["mean"]})
    with pytest.raises(ValueError, match="embed gives 1 rows of 'mean' for 3 images"):
        small_pass(dataset, embed=lambda images: {k: v[:1] for k, v in rows_of(images).items()})
    used = MomentsAccumulator(3)
    used.update(torch.ones(2, 3))
    reading = Reading(ALONE, "reference", num_threads=1)
    with pytest.raises(ValueError, match="'used' has 2 samples already"):
        run_pass(rows_of, dataset, {"used": used}, views=VIEWS, reading=reading)
    with pytest.raises(ValueError, match="without accumulators"):
        run_pass(rows_of, dataset, {}, views=VIEWS, reading=reading)


@pytest.mark.slow
def test_a_pass_killed_at_any_moment_counts_every_sample_once(
    data: Path, dataset: Dataset, tmp_path: Path
) -> None:
    _, expected = small_pass(dataset)
    command = [sys.executable, "-m", "tests.engine.passes.kill_points", str(data), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    seen = json.loads(done.stdout)
    assert len(seen["batches"]) == 8
    assert {result["resumed at"] for result in seen["batches"]} == {0, 12}
    assert len(seen["files"]) > 2 * 5  # two states, of a folder and three files, with a name at last
    assert {result["resumed at"] for result in seen["files"]} == {0, 12, SAMPLES}
    for result in seen["batches"] + seen["files"]:
        assert result["counts"] == [SAMPLES, SAMPLES]
        assert_found(expected, {name: result[name] for name in expected}, rtol=1e-12)
        assert f"position_{SAMPLES:012d}" in result["folder"]


@pytest.fixture(scope="module")
def ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One pass by two ranks, then one, then three: the first two sessions are stopped."""
    folder = tmp_path_factory.mktemp("ranks") / "pass"
    seen: dict[str, Any] = {"two": run_ranks(2, on_a_rank, str(data), str(folder), 1)}
    with Dataset.open(data) as opened:
        with pytest.raises(Stopped):
            small_pass(opened, folder=folder, embed=stopping(2))
        seen["three"] = run_ranks(3, on_a_rank, str(data), str(folder), None)
        seen["alone"] = small_pass(opened)[1]
        seen["two samples"] = small_pass(opened, ids=[2, 5])[1]
        reading = Reading(ALONE, "reference", num_threads=1)
        seen["prototypes"] = spherical_kmeans(
            ColorMeans(), opened, 4, views=VIEWS, reading=reading
        ).prototypes
    return seen


@pytest.mark.slow
def test_any_number_of_ranks_counts_every_sample_once(ranks: dict[str, Any]) -> None:
    for seen in ranks["two"] + ranks["three"]:
        assert_found(seen["whole"], ranks["alone"], rtol=1e-12)
        assert_found(seen["two"], ranks["two samples"], rtol=1e-12)  # of three ranks, one has none


@pytest.mark.slow
def test_a_pass_goes_on_at_another_number_of_ranks(ranks: dict[str, Any]) -> None:
    # Two ranks did two segments of 6, one rank two more of 3, three ranks the rest.
    for seen in ranks["three"]:
        assert seen["resumed at"] == 18
        assert_found(seen["resumed"], ranks["alone"], rtol=1e-12)


@pytest.mark.slow
def test_k_means_finds_the_same_prototypes_on_any_number_of_ranks(ranks: dict[str, Any]) -> None:
    for seen in ranks["two"] + ranks["three"]:
        torch.testing.assert_close(seen["prototypes"], ranks["prototypes"], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_rank_that_fails_stops_all(ranks: dict[str, Any]) -> None:
    assert [seen["error"] for seen in ranks["two"]] == ["RankError: rank 1: Stopped: ", "Stopped: "]
