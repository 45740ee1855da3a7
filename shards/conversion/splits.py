"""Splits: one source into several data sets, each input in exactly one, by the hash of its key."""

import re
from typing import NamedTuple

import xxhash

_SEED = 0x76696577  # so that a split does not follow the shuffled order, which is by the same hash
_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")


class Split(NamedTuple):
    """A part of the keys: those whose hash, as a share of all hashes, lies in [begin, end)."""

    name: str
    begin: float
    end: float

    def holds(self, key: str) -> bool:
        """Whether this split has the input; the same key is in the same split of any source."""
        share = (xxhash.xxh64_intdigest(key.encode(), _SEED) >> 11) / 2**53  # exact, and below 1
        return self.begin <= share < self.end


def parse_splits(text: str) -> list[Split]:
    """'train=0.9,val=0.1' as splits that cover all keys.

    Raises:
        ValueError: another form, a name twice, or shares that do not add up to 1.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        try:
            shares[name] = float(share) if name not in shares else float("nan")
        except ValueError:
            shares[name] = float("nan")
        if not equals or not _NAME.fullmatch(name) or not 0 < shares[name] < 1:
            raise ValueError(f"--split is like train=0.9,val=0.1, got '{text}': wrong is '{part.strip()}'")
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"--split {text}: the shares add up to {sum(shares.values()):g}, expected 1")
    ends = [sum(list(shares.values())[: number + 1]) for number in range(len(shares))]
    ends[-1] = 1.0  # whatever rounding left
    begins = [0.0, *ends[:-1]]
    return [Split(name, begin, end) for name, begin, end in zip(shares, begins, ends, strict=True)]
