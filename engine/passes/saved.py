"""How far a pass has come, on disk: a restart goes on from there, on any number of ranks.

FOLDER/
  position_000000012800/
    rank_0.safetensors ...   the sums that each rank has added, float64, "ACCUMULATOR/SUM"
    PASS.json                what the pass is, the samples left out, and the files' sizes and hashes
    COMMIT                   sha256 of PASS.json
"""

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from viewmill.engine.agreement import from_rank_zero, gather_json
from viewmill.engine.checkpoints.folder import COMMIT_FILE, commit_line
from viewmill.engine.checkpoints.manifest import Count, FileRecord, rank_file
from viewmill.engine.checkpoints.tensor_file import read_bytes, write_tensors, write_text
from viewmill.engine.config import StrictModel
from viewmill.engine.passes.reading import together
from viewmill.engine.world import World
from viewmill.methods.accumulator import Accumulator
from viewmill.shards.durable import sha256_of, sync_folder

PASS_FILE = "PASS.json"
_POSITION = re.compile(r"position_(\d{12,15})")
_LEFTOVER = re.compile(r"\.position_\d{12,15}\.new-[0-9a-f]{16}")
_MAX_PASS_BYTES = 1 << 28


class PassNote(StrictModel):
    """The whole of PASS.json."""

    format: Literal["viewmill-pass"] = "viewmill-pass"
    version: Literal[1] = 1
    position: Count  # places done, of all ranks
    world_size: int = Field(ge=1, lt=1 << 31)
    left_out: dict[str, str]  # id -> why
    files: dict[str, FileRecord]
    about: dict[str, Any]


class SavedPass:
    """The states of one pass in a folder that all ranks share; the newest is kept.

    Killed at any moment, the folder holds the state before or the state after: a state gets its name after
    all in it is on disk, and the one before goes after that.

    Args:
        folder: is made where it is not there.
        world: every rank calls every method.
        about: JSON-able; all that the sums depend on. A state of another pass is refused.
    """

    def __init__(self, folder: Path, world: World, about: dict[str, Any]) -> None:
        self.folder, self._world = folder, world
        self._about = json.loads(json.dumps(about))  # as a reader will see it

    def restore(self, accumulators: Mapping[str, Accumulator]) -> tuple[int, dict[int, str]]:
        """Gives the accumulators what was added before; (places done, samples left out with the reasons).

        The files of a state are dealt out to the ranks there are, which add up what they get.

        Raises:
            ValueError: the folder belongs to another pass; says in what they differ. Or no state in it is
                whole.
            RankError: another rank failed.
        """
        found = from_rank_zero(self._world, self._newest)
        if found is None:
            return 0, {}
        path, note = Path(found[0]), PassNote.model_validate(found[1])
        mine = range(self._world.rank, note.world_size, self._world.world_size)
        together(self._world, lambda: _load([path / rank_file(rank) for rank in mine], accumulators))
        return note.position, {int(sample): reason for sample, reason in note.left_out.items()}

    def save(
        self, position: int, accumulators: Mapping[str, Accumulator], left_out: Mapping[int, str]
    ) -> None:
        """Keeps the state after the first `position` places, and removes the one before.

        Raises:
            OSError: the disk is full or failing; the state before is kept. RankError: another rank's is.
        """
        aside = Path(from_rank_zero(self._world, lambda: self._prepare(position)))
        try:
            name = rank_file(self._world.rank)
            record = together(self._world, lambda: _write(aside / name, accumulators))
            records = gather_json(self._world, record.model_dump())
            files = {rank_file(rank): saved for rank, saved in enumerate(records)}
            note = PassNote(
                position=position,
                world_size=self._world.world_size,
                left_out={str(sample): left_out[sample] for sample in sorted(left_out)},
                files={name: FileRecord.model_validate(saved) for name, saved in files.items()},
                about=self._about,
            )
            from_rank_zero(self._world, lambda: self._publish(aside, note))
        except BaseException:
            if self._world.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _prepare(self, position: int) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        for entry in self.folder.iterdir():
            if _LEFTOVER.fullmatch(entry.name):  # of a save that was killed
                shutil.rmtree(entry)
        aside = self.folder / f".position_{position:012d}.new-{secrets.token_hex(8)}"
        aside.mkdir()
        return str(aside)

    def _publish(self, aside: Path, note: PassNote) -> None:
        """Note and commit; the name; then the older states go."""
        text = note.model_dump_json(indent=1) + "\n"
        write_text(aside / PASS_FILE, text)
        write_text(aside / COMMIT_FILE, commit_line(text.encode()).decode())
        sync_folder(aside)
        final = self.folder / f"position_{note.position:012d}"
        if final.exists():
            shutil.rmtree(final)  # damaged: had it been whole, this pass would have begun after it
        aside.rename(final)
        sync_folder(self.folder)
        for path in self._states():
            if path != final:
                shutil.rmtree(path)

    def _states(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _POSITION.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("position_")), reverse=True)

    def _newest(self) -> tuple[str, dict[str, Any]] | None:
        """The newest whole state and its note; None: nothing was saved."""
        reasons = []
        for path in self._states():
            try:
                note = _read(path)
            except (OSError, ValueError, RecursionError) as error:
                reasons.append(f"{path.name}: {error}")
                continue
            self._refuse_another(note.about)
            return str(path), note.model_dump()
        if reasons:
            told = "; ".join(reasons)
            raise ValueError(f"{self.folder}: no state is whole ({told}); remove the folder to begin anew")
        return None

    def _refuse_another(self, found: dict[str, Any]) -> None:
        for name in sorted(found.keys() | self._about.keys()):
            was, now = found.get(name), self._about.get(name)
            if was != now:
                raise ValueError(
                    f"{self.folder}: holds another pass, whose {name} was {was}, and is {now} now; give "
                    "another folder, or remove this one"
                )


def _read(path: Path) -> PassNote:
    """The note of a state that is whole, byte for byte.

    Raises:
        OSError, ValueError: it is not.
    """
    text = read_bytes(path / PASS_FILE, _MAX_PASS_BYTES)
    if read_bytes(path / COMMIT_FILE, limit=65) != commit_line(text):
        raise ValueError(f"the hash of {PASS_FILE} is not the one in {COMMIT_FILE}")
    note = PassNote.model_validate_json(text)
    if note.files.keys() != {rank_file(rank) for rank in range(min(note.world_size, len(note.files) + 1))}:
        raise ValueError(f"lists {len(note.files)} files, which are not those of {note.world_size} ranks")
    for name, record in note.files.items():
        if sha256_of(path / name) != record.sha256:
            raise ValueError(f"{name} has other bytes than were written")
    return note


def _write(path: Path, accumulators: Mapping[str, Accumulator]) -> FileRecord:
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent}: rank 0 made it and this rank does not see it; give a folder that all ranks share"
        )
    tensors: list[tuple[str, Tensor]] = [
        (f"{name}/{key}", value)
        for name, accumulator in accumulators.items()
        for key, value in accumulator.state_dict().items()
    ]
    size, sha256 = write_tensors(path, tensors)
    return FileRecord(size=size, sha256=sha256)


def _load(paths: list[Path], accumulators: Mapping[str, Accumulator]) -> None:
    """Adds up the states in these files; without files an accumulator stays as it is, empty."""
    for path in paths:
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: {error}; remove the folder to begin the pass anew") from error
        for name, accumulator in accumulators.items():
            prefix = f"{name}/"
            state = {key.removeprefix(prefix): v for key, v in found.items() if key.startswith(prefix)}
            take = accumulator.load_state_dict if path == paths[0] else accumulator.add_state
            take(state)
