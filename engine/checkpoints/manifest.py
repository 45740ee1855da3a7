"""MANIFEST.json: what a checkpoint says that it holds, and whether that is complete."""

from collections import defaultdict
from typing import Annotated, Any, Literal

from pydantic import Field
from viewmill.engine.config import StrictModel
from viewmill.engine.fragments import WEIGHT, check_cover, numel_of

BUFFERS_FILE = "buffers.safetensors"

Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class Piece(StrictModel):
    """A stretch of one parameter, of one kind, as it lies in a file."""

    kind: str
    name: str
    offset: Count
    numel: Annotated[int, Field(ge=1, lt=1 << 62)]

    @property
    def key(self) -> str:
        """Its name in the safetensors file."""
        return f"{self.kind}:{self.offset}:{self.name}"


class FileRecord(StrictModel):
    """One file of the checkpoint."""

    size: Count
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    pieces: list[Piece] = Field(default_factory=list)


class Parameter(StrictModel):
    """A parameter of the module."""

    shape: list[Count]
    trained: bool  # else it has no optimiser state

    @property
    def numel(self) -> int:
        return numel_of(tuple(self.shape))


class Manifest(StrictModel):
    """The whole of MANIFEST.json."""

    format: Literal["viewmill-checkpoint"] = "viewmill-checkpoint"
    version: Literal[1] = 1
    step: Count
    world_size: Annotated[int, Field(ge=1, lt=1 << 31)]
    stage: Annotated[int, Field(ge=0, le=3)]
    parameters: dict[str, Parameter]
    # Kinds of optimiser state: a number for each of a parameter's, or one for all of it.
    kinds: dict[str, Literal["elementwise", "scalar"]]
    files: dict[str, FileRecord]
    state: dict[str, Any]
    software: dict[str, str]

    def faults(self) -> list[str]:
        """Why the files, as listed, are no complete checkpoint; empty: they are one."""
        listed = {BUFFERS_FILE, *(rank_file(rank) for rank in range(min(self.world_size, len(self.files))))}
        if set(self.files) != listed or len(listed) != self.world_size + 1:
            return [
                f"lists {len(self.files)} files, which are not {self.world_size} ranks' and {BUFFERS_FILE}"
            ]
        # Before memory is set aside for what a damaged manifest says.
        faults = [
            f"{name} is too small for its pieces"
            for name, record in self.files.items()
            if 4 * sum(piece.numel for piece in record.pieces) > record.size
        ]
        expected, stretches = self.expected(), self._stretches()
        faults += [f"{kind} of {name} is in no model" for kind, name in stretches.keys() - expected.keys()]
        for (kind, name), numel in expected.items():
            fault = check_cover(numel, stretches.get((kind, name), []))
            if fault:
                faults.append(f"{kind} of {name}: {fault}")
        return sorted(faults)

    def expected(self) -> dict[tuple[str, str], int]:
        """Every (kind, parameter) of a complete checkpoint, and how many numbers it has."""
        sizes = {(WEIGHT, name): parameter.numel for name, parameter in self.parameters.items()}
        for kind, extent in self.kinds.items():
            for name, parameter in self.parameters.items():
                if parameter.trained:
                    sizes[kind, name] = 1 if extent == "scalar" else parameter.numel
        return sizes

    def _stretches(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        stretches = defaultdict(list)
        for record in self.files.values():
            for piece in record.pieces:
                stretches[piece.kind, piece.name].append((piece.offset, piece.numel))
        return stretches


def rank_file(rank: int) -> str:
    return f"rank_{rank}.safetensors"
