"""What `verify` finds: one fault after another, each with its remedy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the file, what and where, what to do. repaired: it no longer is."""

    file: str
    message: str
    repaired: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" + (" (repaired)" if self.repaired else "")
