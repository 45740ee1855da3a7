"""The floors: what they see of an image, and that they find what pixels and colours tell."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from viewmill.engine.evaluation.floors import color_histogram, floor_accuracies, raw_pixels, thumbnails
from viewmill.engine.passes.reading import Reading
from viewmill.engine.world import World
from viewmill.shards.convert import convert
from viewmill.shards.errors import ImageError
from viewmill.shards.manifest import Dataset

READING = Reading(World(0, 1, 0, torch.device("cpu")), num_threads=2)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight noise pictures of 64 x 96 pixels, b/ all turned by their EXIF tag."""
    folder = tmp_path_factory.mktemp("floors")
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed in range(8):
        path = folder / "source" / ("a" if seed % 2 else "b") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed, 64, 96)).save(path, exif=None if seed % 2 else exif)
    convert(folder / "source", folder / "data")
    return folder / "data"


def test_a_thumbnail_pixel_is_the_mean_of_those_it_stands_for(data: Path) -> None:
    with Dataset.open(data) as dataset:
        small = thumbnails(dataset, READING)
        keys = dataset.keys(range(dataset.num_samples))
    assert small.shape == (8, 32, 32, 3)
    for row, key in enumerate(keys):
        folder, number = key.split("/")
        stored = noise(int(number), 64, 96)
        upright = stored if folder == "a" else np.rot90(stored, k=-1)  # orientation 6
        height, width = upright.shape[0] // 32, upright.shape[1] // 32
        means = upright.reshape(32, height, 32, width, 3).mean(axis=(1, 3))
        # Rounded twice: after the rows and after the columns.
        np.testing.assert_allclose(small[row].numpy(), means, atol=1.01)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source" / "a"
    source.mkdir(parents=True)
    Image.fromarray(noise(0, 80, 80)).save(source / "good.jpg")
    whole = (source / "good.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    convert(tmp_path / "source", tmp_path / "data", check="header")
    with Dataset.open(tmp_path / "data") as dataset, pytest.raises(ImageError, match="sample 'a/cut'"):
        thumbnails(dataset, READING)


def test_raw_pixels_ignore_the_brightness_of_an_image() -> None:
    image = torch.randint(0, 200, (1, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(raw_pixels(image + 50), raw_pixels(image), atol=1e-6, rtol=0)
    assert raw_pixels(image).shape == (1, 3072)
    assert raw_pixels(image).std() > 0.1


def test_a_histogram_holds_roots_of_the_shares_of_64_colours() -> None:
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    image[0, :8] = torch.tensor([63, 64, 255])  # levels 0, 1, 3: colour 7
    image[0, 8:16] = torch.tensor([255, 255, 255])  # colour 63
    found = color_histogram(image)[0]
    assert found.nonzero().flatten().tolist() == [0, 7, 63]
    assert found[[0, 7, 63]].square().tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_colours_are_found_by_the_histogram_and_shapes_by_the_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    colored = torch.randint(0, 120, (80, 32, 32, 3), generator=draw, dtype=torch.uint8)
    colored[labels == 1] += 120  # the classes differ in brightness alone, which raw pixels ignore
    shaped = torch.randint(0, 120, (80, 32, 32, 3), generator=draw, dtype=torch.uint8)
    shaped[labels == 1, :16] += 100  # as many bright pixels in both classes, above or below
    shaped[labels == 0, 16:] += 100
    found = {
        name: floor_accuracies(images[:60], labels[:60], images[60:], labels[60:], 2)
        for name, images in (("colored", colored), ("shaped", shaped))
    }
    assert found["colored"]["histogram"] == 1.0
    assert found["shaped"]["raw_pixels"] == 1.0
    assert found["colored"]["raw_pixels"] < 0.8
    assert found["shaped"]["histogram"] < 0.8


def test_a_bank_of_fewer_than_twenty_images_votes_as_a_whole() -> None:
    images = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    labels = torch.tensor([1, 1, 1, 0, 0])
    assert floor_accuracies(images, labels, images, labels, 2) == {"raw_pixels": 0.6, "histogram": 0.6}
