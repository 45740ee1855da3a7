"""FFCV's format: FFCV's own Loader reads what is written, and nothing that is damaged is believed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.shards.containers.beton import LEAST_PAGE, BetonWriter, read_tables
from viewmill.shards.errors import ShardError

from tests.shards.pictures import encoded, picture

# Two decoders of one JPEG: FFCV asks libjpeg-turbo for its fast inverse transform.
JPEG_TOLERANCE = 8


def pictures(count: int = 12) -> list[np.ndarray]:
    return [picture(number, 20, 30) for number in range(count)]


def stored(number: int, image: np.ndarray) -> tuple[bytes, bool]:
    """Raw pixels, a JPEG in colour or one in grey; and whether it is raw."""
    if number % 3 == 0:
        return image.tobytes(), True
    chosen = Image.fromarray(image) if number % 3 == 1 else Image.fromarray(image).convert("L")
    return encoded(chosen, "JPEG", quality=95), False


def write(path: Path, images: list[np.ndarray], spare: int = 3) -> list[tuple[int, bytes]]:
    """A file of these images; (offset, bytes) of each."""
    places = []
    with path.open("xb") as file:
        writer = BetonWriter(file, len(images) + spare)
        for number, image in enumerate(images):
            data, raw = stored(number, image)
            height, width = image.shape[:2]
            places.append((writer.add(data, raw=raw, width=width, height=height, label=number - 1), data))
        size = writer.finish()
    assert path.stat().st_size == size
    return places


def decoded(data: bytes, image: np.ndarray) -> np.ndarray:
    if len(data) == image.size:
        return image
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_image_lies_where_the_writer_says(tmp_path: Path) -> None:
    places = write(tmp_path / "a.beton", pictures())
    whole = (tmp_path / "a.beton").read_bytes()
    assert all(whole[offset : offset + len(data)] == data for offset, data in places)


def test_the_tables_are_read_back(tmp_path: Path) -> None:
    places = write(tmp_path / "a.beton", pictures())
    with (tmp_path / "a.beton").open("rb") as file:
        tables = read_tables(file, "a.beton")
    assert tables.page_size == LEAST_PAGE
    assert tables.samples["offset"].tolist() == [offset for offset, _ in places]
    assert tables.allocations["size"].tolist() == [len(data) for _, data in places]
    assert tables.samples["label"].tolist() == list(range(-1, 11))
    assert tables.samples["mode"].tolist() == [1, 0, 0] * 4
    assert set(tables.samples["width"].tolist()) == {30}


def test_no_image_crosses_a_page_however_large_the_pages_become(tmp_path: Path) -> None:
    sizes = [3 << 20, 7 << 20, 5 << 20, 9 << 20, 1 << 20, 17 << 20, 6 << 20]
    with (tmp_path / "a.beton").open("xb") as file:
        writer = BetonWriter(file, len(sizes))
        for size in sizes:
            writer.add(bytes(size), raw=True, width=1, height=1, label=0)
        writer.finish()
    with (tmp_path / "a.beton").open("rb") as file:
        tables = read_tables(file, "a.beton")
    assert tables.page_size == 32 << 20
    for page in (tables.page_size, 2 * tables.page_size):
        first = tables.allocations["offset"] // page
        last = (tables.allocations["offset"] + tables.allocations["size"] - 1) // page
        assert (first == last).all()


def test_a_side_that_the_format_cannot_state_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.beton").open("xb") as file:
        writer = BetonWriter(file, 1)
        with pytest.raises(ValueError, match=r"65536x1 .* do not fit"):
            writer.add(b"x", raw=False, width=65_536, height=1, label=0)


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.beton", pictures(4))
    whole = (tmp_path / "a.beton").read_bytes()
    for size in [*range(0, 2300, 97), *range(4000, len(whole), 211), len(whole) - 1]:
        with pytest.raises(ShardError, match=r"cut\.beton: "):
            read_tables(io.BytesIO(whole[:size]), "cut.beton")


def test_what_the_tables_claim_of_images_is_checked(tmp_path: Path) -> None:
    """Any flipped bit of a place, in either table, of the header or of a field makes the file unreadable."""
    write(tmp_path / "a.beton", pictures(4), spare=0)
    whole = bytearray((tmp_path / "a.beton").read_bytes())
    start = int.from_bytes(whole[16:24], "little")
    # Header, fields, the place of each image in the table of samples, and the table of places.
    guarded = [*range(0, 4), *range(8, 2106)]
    guarded += [2106 + 24 * row + byte for row in range(4) for byte in range(5, 13)]
    guarded += [byte for byte in range(start, len(whole)) if (byte - start) % 24 < 16]
    believed = []
    for byte in guarded:
        for bit in (0, 5):
            whole[byte] ^= 1 << bit
            try:
                read_tables(io.BytesIO(bytes(whole)), "a.beton")
                believed.append((byte, bit))
            except ShardError:
                pass
            whole[byte] ^= 1 << bit
    assert believed == []


@pytest.mark.slow
@pytest.mark.parametrize("os_cache", [True, False])
def test_ffcv_reads_the_same_pixels_and_labels(tmp_path: Path, os_cache: bool) -> None:
    loader = pytest.importorskip("ffcv.loader", reason="FFCV is not installed: make test builds it")
    images = pictures(30)
    places = write(tmp_path / "a.beton", images)
    order = loader.OrderOption.SEQUENTIAL
    batches = loader.Loader(
        str(tmp_path / "a.beton"),
        batch_size=8,
        num_workers=1,
        os_cache=os_cache,
        order=order,
        drop_last=False,
    )
    seen = 0
    for shown, labels in batches:
        for found, label in zip(np.asarray(shown), np.asarray(labels), strict=True):
            number = int(label.item()) + 1
            expected = decoded(places[number][1], images[number])
            difference = np.abs(found.astype(int) - expected.astype(int)).max()
            assert difference <= (0 if number % 3 == 0 else JPEG_TOLERANCE)
            assert number == seen
            seen += 1
    assert seen == len(images)
