"""Reads that locality saves: samples side by side in a shard are one piece."""

import numpy as np
import pytest
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.reads import measure_reads, pieces
from viewmill.shards.rows import RECORD


def rows_of(num_samples: int, samples_of_shard: int, size: int = 1000, gap: int = 512) -> np.ndarray:
    rows = np.zeros(num_samples, RECORD)
    ids = np.arange(num_samples)
    rows["shard"], place = ids // samples_of_shard, ids % samples_of_shard
    rows["offset"], rows["size"] = place * (size + gap), size
    return rows


def test_neighbours_are_one_piece_and_shards_are_not_crossed() -> None:
    rows = rows_of(20, samples_of_shard=10, size=5000)
    assert pieces(np.array([7, 3, 9, 4, 5, 8]), rows).tolist() == [3 * 5000 + 2 * 512] * 2
    assert pieces(np.array([9, 10]), rows).tolist() == [5000, 5000]
    assert pieces(np.array([4]), rows).tolist() == [5000]


def test_what_is_far_apart_is_two_pieces_and_a_copy_is_read_once() -> None:
    rows = rows_of(10, samples_of_shard=10, gap=5000)
    assert pieces(np.array([4, 5, 4]), rows).tolist() == [1000, 1000]


def test_blocks_save_reads() -> None:
    rows = rows_of(1024, samples_of_shard=1024)
    alone = measure_reads(SampleOrder(1024, 0), rows, 64)
    blocks = measure_reads(SampleOrder(1024, 0, block=64), rows, 64)
    assert (blocks.reads, blocks.bytes_per_read) == (1, 64 * 1512 - 512)
    assert alone.reads > 50
    assert blocks.bytes_per_unit == blocks.bytes_per_read


def test_a_window_is_read_in_as_many_pieces_as_it_has_blocks() -> None:
    rows = rows_of(4096, samples_of_shard=4096)
    order = SampleOrder(4096, 0, block=32, window=512)
    window = measure_reads(order, rows, 512)
    assert window.samples == 512
    assert 8 <= window.reads <= 16  # of 16 blocks, some lie side by side
    assert measure_reads(order, rows, 64).reads > 20


@pytest.mark.parametrize("unit", [0, 11])
def test_a_unit_that_does_not_fit_is_refused(unit: int) -> None:
    with pytest.raises(ValueError, match=f"must lie in \\[1, 10\\], got {unit}"):
        measure_reads(SampleOrder(10, 0), rows_of(10, 10), unit)
