"""What a caller may choose of a conversion's result."""

from dataclasses import dataclass

from viewmill.shards.conversion.label_map import Pairs
from viewmill.shards.conversion.resize import Resize
from viewmill.shards.conversion.splits import Split
from viewmill.shards.info import KINDS

CHECKS = ("decode", "header")
BETON_IMAGES = ("mixed", "jpeg", "raw")


@dataclass(frozen=True)
class Options:
    """What a caller may choose of the result; kept in dataset.json.

    shuffle_seed: None keeps the source's order. check: 'decode' decodes each image once, 'header' trusts
    the body of those that are kept as they are. shard_bytes: aimed at, of source bytes; None is a
    sixteenth of the whole, 4 (betons: 64) to 256 MiB. limit: only so many inputs, the first of the order.
    resize: see `Resize`. quality: of the JPEGs that are written. label_map: see `label_map.renamed`;
    empty is none. split: only its inputs. quarantine_bytes: keep what is refused. format: of the shards,
    one of `info.KINDS`. beton_images: what a beton holds: 'mixed' keeps upright JPEGs and stores all else
    as raw pixels, 'jpeg' encodes all else as JPEG, 'raw' decodes everything. in_place: the shards are the
    source's tars, see `in_place.py`.
    """

    shuffle_seed: int | None = 0
    check: str = "decode"
    shard_bytes: int | None = None
    limit: int | None = None
    resize: str | None = None
    quality: int = 90
    label_map: Pairs = ()
    split: Split | None = None
    quarantine_bytes: bool = False
    in_place: bool = False
    format: str = "webdataset"
    beton_images: str = "mixed"

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise ValueError(f"check is {' or '.join(CHECKS)}, got '{self.check}'")
        if self.shuffle_seed is not None and not 0 <= self.shuffle_seed < 2**64:
            raise ValueError(f"the shuffle seed lies in [0, 2^64), got {self.shuffle_seed}")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise ValueError(f"shards have at least 1 byte, got {self.shard_bytes}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"the limit is at least 1 input, got {self.limit}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"the JPEG quality lies in 1..100, got {self.quality}")
        if self.format not in KINDS:
            raise ValueError(f"the format is one of {', '.join(KINDS)}, got '{self.format}'")
        if self.beton_images not in BETON_IMAGES:
            raise ValueError(f"images in a beton are {', '.join(BETON_IMAGES)}, got '{self.beton_images}'")
        if self.format != "ffcv" and self.beton_images != "mixed":
            raise ValueError(f"'{self.beton_images}' images are for the format ffcv, got '{self.format}'")
        Resize.parse(self.resize)
