"""Parts: one conversion shared by the jobs of an array, each writing its own shards of the same plan."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 0: the shards whose number leaves this remainder."""

    index: int
    count: int

    def has(self, shard: int) -> bool:
        return shard % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_part(text: str) -> Part:
    """'0/8' to '7/8'.

    Raises:
        ValueError: another form, or an index that is not below the count.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"--part is INDEX/COUNT, from 0/N to N-1/N, got '{text}'")
    return Part(int(match[1]), int(match[2]))
