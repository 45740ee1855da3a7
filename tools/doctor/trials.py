"""Other settings that are tried: which they are, and what each of them changes."""

from dataclasses import dataclass
from typing import NamedTuple


class Trial(NamedTuple):
    """One of them; None: as the run is set."""

    name: str = ""  # of its figures
    view_threads: int | None = None
    executor: str | None = None
    short_side: int | None = None  # of images as `convert --resize` would store them, pixels
    torch_threads: int | None = None
    copies: int = 1  # how many times as many images


AS_SET = Trial()


@dataclass(frozen=True)
class Trials:
    """What is measured beside the run's own settings: numbers of threads, and short sides in pixels."""

    executor_threads: tuple[int, ...] = ()
    torch_threads: tuple[int, ...] = ()
    executors: tuple[str, ...] = ()
    short_sides: tuple[int, ...] = ()
    doubles_batch: bool = True

    def each(self) -> list[Trial]:
        """All of them, one change each."""
        return [
            *(Trial(f"threads {number}", view_threads=number) for number in self.executor_threads),
            *(Trial(name, executor=name) for name in self.executors),
            *(Trial(f"short {side}", short_side=side) for side in self.short_sides),
            *(Trial(f"torch threads {number}", torch_threads=number) for number in self.torch_threads),
            *([Trial("double", copies=2)] if self.doubles_batch else []),
        ]
