"""Random words: the published answers, and names that never meet."""

import itertools

import numpy as np
import pytest
from viewmill.pipelines.philox import MAX_SEED, Stream, below, keyed_words, philox, uniform

ONES = 0xFFFFFFFF
# kat_vectors of Random123, the authors' own implementation, "philox4x32 10".
KNOWN_ANSWERS = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES), (ONES, ONES, ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_the_published_answers_come_out(
    key: tuple[int, int], counter: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    assert tuple(philox(key, np.array(counter, dtype=np.uint64)).tolist()) == answer


def test_an_array_of_counters_gives_the_words_of_each_counter_alone() -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (4, 3, 5), dtype=np.uint64)
    words = philox((7, 8), counters)
    for place in itertools.product(range(3), range(5)):
        alone = philox((7, 8), counters[(slice(None), *place)])
        np.testing.assert_array_equal(words[(slice(None), *place)], alone)


def test_the_counters_are_left_as_they_were() -> None:
    counters = np.arange(8, dtype=np.uint64).reshape(4, 2)
    philox((1, 2), counters)
    np.testing.assert_array_equal(counters, np.arange(8).reshape(4, 2))


def test_no_two_names_share_words() -> None:
    # Small and large numbers in every field, so that a field spilling into its neighbour would collide.
    seeds, epochs = (0, 1, 2**32, MAX_SEED), (0, 1, 2**32 - 1)
    indices, lanes = np.array([0, 1, 2**32, 2**63 - 1]), np.array([0, 1, 256, 2**28 - 1])
    seen = {
        tuple(words)
        for seed, stream, epoch in itertools.product(seeds, Stream, epochs)
        for words in keyed_words(seed, stream, epoch, indices[:, None], lanes).reshape(4, -1).T.tolist()
    }
    assert len(seen) == len(seeds) * len(Stream) * len(epochs) * 16


def test_words_become_numbers_strictly_between_0_and_1() -> None:
    ends = uniform(np.array([0, ONES], dtype=np.uint64))
    assert 0 < ends[0] < 2.0**-32
    assert 1 - 2.0**-32 < ends[1] < 1


@pytest.mark.parametrize("bound", [1, 7, 2**31])
def test_words_become_whole_numbers_below_a_bound(bound: int) -> None:
    ends = below(np.array([0, ONES], dtype=np.uint64), np.array([bound]))
    assert ends.tolist() == [0, bound - 1]


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_that_does_not_fit_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must lie in .*got {seed}"):
        keyed_words(seed, Stream.VIEWS, 0, [0], [0])


def test_an_epoch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch must lie in"):
        keyed_words(0, Stream.VIEWS, 2**32, [0], [0])
