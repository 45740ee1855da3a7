"""What a preflight is told: paths to look at, threads that the recipe wants, and how long it waits."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from viewmill.engine.config import RunConfig
from viewmill.engine.strict import StrictModel


class Options(StrictModel):
    """The same on every rank, but for what a test makes different."""

    data: str | None = None  # a data set's folder or URL
    out: Path | None = Field(default=None, strict=False)  # the run's folder, which need not be there yet
    device: Literal["auto", "cpu", "cuda"] = "auto"  # the recipe's; on the CPU no GPU is looked at
    threads: int = Field(default=2, ge=1)  # of a rank: the executor's, and torch's
    read_bytes: int = Field(default=256 << 20, ge=1)  # of shards, by each rank
    read_s: float = Field(default=3.0, gt=0)  # reading ends after so long, too
    # Facts of one kind that are not there after so long are an error: a lost mount never answers.
    gather_s: float = Field(default=20.0, gt=0)
    patience_s: float = Field(default=60.0, gt=0)  # that rank 0 waits for a rank, from its own start
    collective_s: float = Field(default=30.0, gt=0)  # that a collective may take
    network: bool = True


def threads_of_rank(config: RunConfig, of_launcher: int) -> int:
    """The executor's, and torch's as the recipe sets them, or else the launcher by OMP_NUM_THREADS."""
    return config.views.num_threads + (config.torch_threads or of_launcher)
