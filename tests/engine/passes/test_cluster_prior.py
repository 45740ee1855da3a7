"""Priors of a backbone's clusters: k-means, the pass, the file, and what is told of them."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.features import evaluation_views, extract_all
from viewmill.engine.passes.cluster_prior import Streaming, cluster_prior, described
from viewmill.engine.passes.cluster_source import (
    clusters_of_backbone,
    prototypes_by_kmeans,
    prototypes_in,
)
from viewmill.engine.passes.kmeans import spherical_kmeans
from viewmill.engine.passes.prior_file import read_prior, write_prior
from viewmill.engine.passes.reading import Reading
from viewmill.pipelines.order import SampleOrder
from viewmill.shards.manifest import Dataset

from tests.engine.evaluation.features_on_ranks import ColorMeans
from tests.engine.passes.small_pass import ALONE
from tests.engine.tiny import tiny_data_set
from tests.pipelines.damage import damaged

SAMPLES, CLUSTERS = 40, 5
VIEWS = evaluation_views(16)
READING = Reading(ALONE, "reference", num_threads=1, batch_size=7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("prior"), count=SAMPLES)


@pytest.fixture
def dataset(data: Path) -> Iterator[Dataset]:
    with Dataset.open(data) as opened:
        yield opened


def source() -> BackboneSource:
    return BackboneSource(
        name="colours",
        backbone=ColorMeans(),
        build=ColorMeans,
        about={"backbone": "colours"},
        image_size=16,
        mean=VIEWS.mean,
        std=VIEWS.std,
        step=None,
        folder=None,
        path=None,
    )


def unit_rows(dataset: Dataset) -> np.ndarray:
    rows = extract_all([ColorMeans()], dataset, VIEWS, READING)[0].features.double().numpy()
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def directions() -> Tensor:
    return torch.randn(CLUSTERS, 3, generator=torch.Generator().manual_seed(0))


def test_k_means_is_lloyds_from_the_first_samples_of_the_draw(dataset: Dataset) -> None:
    found = spherical_kmeans(ColorMeans(), dataset, CLUSTERS, views=VIEWS, reading=READING, seed=3)
    rows, first = unit_rows(dataset), SampleOrder(SAMPLES, 3).ids(0, 0, CLUSTERS)
    prototypes, fits = rows[first], []
    for _ in found.fits:
        cosines = rows @ prototypes.T
        fits.append(cosines.max(axis=1).mean())
        nearest = cosines.argmax(axis=1)
        assert len(set(nearest)) == CLUSTERS  # else the empty ones would move too
        sums = np.stack([rows[nearest == cluster].sum(axis=0) for cluster in range(CLUSTERS)])
        prototypes = sums / np.sqrt((sums**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.fits, fits, rtol=1e-6)
    np.testing.assert_allclose(found.prototypes.numpy(), prototypes, atol=1e-5)
    assert (found.num_samples, found.num_empty) == (SAMPLES, 0)
    assert all(later >= earlier for earlier, later in itertools.pairwise(fits))


def test_k_means_leaves_bad_images_out_and_wants_an_image_a_cluster(
    data: Path, dataset: Dataset, tmp_path: Path
) -> None:
    first = SampleOrder(SAMPLES, 0).ids(0, 0, 2).tolist()
    path = damaged(data, tmp_path / "damaged", flipped=set(first), cut=set())
    with Dataset.open(path) as broken:
        found = spherical_kmeans(ColorMeans(), broken, CLUSTERS, views=VIEWS, reading=READING)
    assert found.num_samples == SAMPLES - 2
    with pytest.raises(ValueError, match=f"41 clusters of {SAMPLES} samples .*: give 2 to {SAMPLES}"):
        spherical_kmeans(ColorMeans(), dataset, SAMPLES + 1, views=VIEWS, reading=READING)


def test_prototypes_are_made_once_for_a_pass_that_is_started_again(dataset: Dataset, tmp_path: Path) -> None:
    made = [
        prototypes_by_kmeans(source(), dataset, clusters, reading=READING, folder=tmp_path / "state")
        for clusters in (CLUSTERS, CLUSTERS, 4)
    ]
    assert [one.told.endswith("as made before") for one in made] == [False, True, False]
    assert torch.equal(made[0].prototypes, made[1].prototypes)
    assert len(made[2].prototypes) == 4


def test_the_prior_is_the_mean_posterior_and_the_centre_the_mean_logit(
    dataset: Dataset, tmp_path: Path
) -> None:
    model = clusters_of_backbone(source(), directions(), ALONE.device)
    prior, report = cluster_prior(model, dataset, reading=READING, temperature=0.2)
    unit = directions().double().numpy()
    logits = unit_rows(dataset) @ (unit / np.sqrt((unit**2).sum(axis=1, keepdims=True))).T
    t = np.exp(logits / 0.2)
    t = t / t.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(prior.log_prior.exp(), t.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(prior.center, logits.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(prior.standard_error, t.std(axis=0, ddof=1) / math.sqrt(SAMPLES), rtol=1e-4)
    assert report.counted == SAMPLES
    write_prior(tmp_path / "prior.safetensors", prior)
    again = read_prior(tmp_path / "prior.safetensors")
    assert torch.equal(again.log_prior, prior.log_prior)
    assert torch.equal(prototypes_in(tmp_path / "prior.safetensors"), model.prototypes)  # type: ignore[arg-type]
    assert again.about == prior.about


def test_a_subsample_is_that_of_the_seed_and_is_compared_by_its_error(dataset: Dataset) -> None:
    model = clusters_of_backbone(source(), directions(), ALONE.device)
    whole, _ = cluster_prior(model, dataset, reading=READING, temperature=1.0)
    part, report = cluster_prior(model, dataset, reading=READING, temperature=1.0, subsample=20, seed=5)
    chosen = SampleOrder(SAMPLES, 5).ids(0, 0, 20)
    unit = torch.nn.functional.normalize(directions().double(), dim=1).numpy()
    t = np.exp(unit_rows(dataset) @ unit.T)
    t = t / t.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(part.log_prior.exp(), t[chosen].mean(axis=0), rtol=1e-5)
    assert report.num_samples == 20
    # Drawn without replacement: half of the samples leave half of the variance.
    error = t[chosen].std(axis=0, ddof=1) / math.sqrt(20) * math.sqrt(20 / 39)
    z = (t[chosen].mean(axis=0) - t.mean(axis=0)) / error
    found = described(part, {"whole": whole}, streaming=None)["agreement"]["whole"]
    assert found["mean_square_z"] == pytest.approx((z**2).mean(), rel=1e-3)
    told = described(whole, {}, streaming=None)
    assert told["largest_relative_error"] == 0  # nothing is left open where every image was read
    with pytest.raises(ValueError, match="a subsample of 41 of the 40 samples"):
        cluster_prior(model, dataset, reading=READING, subsample=41)


def test_a_streaming_prior_is_compared_with_that_of_the_pass(dataset: Dataset) -> None:
    model = clusters_of_backbone(source(), directions(), ALONE.device)
    prior, _ = cluster_prior(model, dataset, reading=READING)
    streaming = Streaming(prior.log_prior + torch.tensor([0.1, 0, 0, 0, 0]), rows=80)
    told = described(prior, {}, streaming)["agreement"]["streaming"]
    assert told["rows"] == 80
    p = prior.log_prior.exp()
    q = p * torch.tensor([math.exp(0.1), 1, 1, 1, 1], dtype=torch.float64)
    q = q / q.sum()
    assert told["total_variation"] == pytest.approx(float((p - q).abs().sum() / 2))


def test_what_is_no_prior_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(FileNotFoundError, match="viewmill prior writes one"):
        read_prior(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(ValueError, match="not a prior that this Viewmill wrote"):
        read_prior(tmp_path / "text")
    save_file({"log_prior": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="its format is None None"):
        read_prior(tmp_path / "other.safetensors")
    model = clusters_of_backbone(source(), directions(), ALONE.device)
    prior, _ = cluster_prior(model, dataset, reading=READING)
    write_prior(tmp_path / "own.safetensors", replace(prior, prototypes=None))
    with pytest.raises(ValueError, match="holds no prototypes"):
        prototypes_in(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"prototypes \(5, 4\) are not \(K, 3\)"):
        clusters_of_backbone(source(), torch.ones(5, 4), ALONE.device)
