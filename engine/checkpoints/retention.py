"""Which checkpoints stay, and how one goes: no reader sees it half deleted."""

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.checkpoints.folder import Checkpoint, candidates, step_of

# What a killed save or deletion leaves behind: never read, and cleared by the next save.
LEFTOVER = re.compile(r"\.(step_\d{8,15}|latest|best)\.(new|old)-[0-9a-f]{16}")


@dataclass(frozen=True)
class Retention:
    """The newest `keep` checkpoints stay, those whose step is a multiple of one of `every`, and the best."""

    keep: int = 2
    every: tuple[int, ...] = ()
    best: int | None = None  # its step

    def retire(self, folder: Path, step: int) -> None:
        """Removes the others among those up to `step`; what counts as kept is complete."""
        complete = 0
        for path in candidates(folder):
            if step_of(path) > step:
                continue  # of a future that was given up when an older one was resumed
            if complete < self.keep:
                complete += is_complete(path)
            elif step_of(path) != self.best and all(step_of(path) % every for every in self.every):
                remove(path)


KEEP_TWO = Retention()


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was committed and its files have their sizes."""
    try:
        Checkpoint.open(path, verify=False)
    except CheckpointError:
        return False
    return True


def remove(path: Path) -> None:
    """Deletes a folder that no reader sees half deleted."""
    if not LEFTOVER.fullmatch(path.name):
        path = path.rename(grave(path))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def grave(path: Path) -> Path:
    """A name beside it under which nobody looks for it."""
    return path.with_name(f".{path.name}.old-{secrets.token_hex(8)}")
