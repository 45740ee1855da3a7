"""Images that stand for a data set: its sizes, and those of a smaller copy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.pipelines.order import SampleOrder
from viewmill.shards.convert import convert
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor.pictures import choose, resized


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine small images and one large one of ten."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "source").mkdir()
    for number in range(40):
        side = 320 if number % 10 == 0 else 64
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "source" / f"{number}.jpg")
    convert(root / "source", root / "data", workers=1)
    return root / "data"


def test_few_images_have_the_sizes_of_all(data: Path) -> None:
    with Dataset.open(data) as dataset:
        found = choose(dataset, SampleOrder(40, seed=0), 10)
        assert sorted(found.sizes[:, 0].tolist()) == [64] * 9 + [320]
        assert [len(part.ids) for part in found.parts(4)] == [4, 4, 2]
        assert dataset.read(found.ids) == found.images


def test_smaller_copies_are_what_convert_would_store(data: Path) -> None:
    with Dataset.open(data) as dataset:
        found = choose(dataset, SampleOrder(40, seed=0), 10)
    assert resized(found, 100) is None  # one of ten is larger
    large = found.sizes[:, 0] == 320
    picked = found._replace(
        ids=found.ids[large],
        images=[image for image, is_large in zip(found.images, large, strict=True) if is_large],
        sizes=found.sizes[large],
    )
    smaller = resized(picked, 100)
    assert smaller is not None
    assert smaller.sizes.tolist() == [[100, 100]]
    assert decode_rgb(smaller.images[0]).shape == (100, 100, 3)
