"""What kind of fault an exception is, and whose."""

import errno

import torch
import torch.distributed as dist
from viewmill.engine.agreement import RankError
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.nonfinite import NonFiniteError
from viewmill.engine.preemption import Requeue
from viewmill.engine.strict import ConfigError
from viewmill.shards.errors import ShardError, StorageError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# How the libraries behind torch.distributed say that a peer has left; they raise plain RuntimeErrors.
_OF_A_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (NonFiniteError, "non-finite"),
    (StorageError, "lost data"),
    (ShardError, "damaged data"),
    (CheckpointError, "checkpoint"),
    (OSError, "input/output"),
    (MemoryError, "memory"),
    (torch.OutOfMemoryError, "memory"),
)


def is_fault(error: BaseException) -> bool:
    """Whether it is one at all: a signal, a setting and Ctrl-C are not."""
    return isinstance(error, Exception) and not isinstance(error, (Requeue, ConfigError))


def kind_of(error: BaseException) -> str:
    """One or two words."""
    if is_full_disk(error):
        return "full disk"
    return next((kind for type_, kind in KINDS if isinstance(error, type_)), "error")


def is_full_disk(error: BaseException | None) -> bool:
    """Also where a checkpoint's error has the system's behind it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return True
        error = error.__cause__
    return False


def is_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank has left: who it is, the error does not say."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    is_plain = type(error) is RuntimeError
    return is_plain and any(word in text for word in _OF_A_PEER)


def culprit_of(error: BaseException) -> int | None:
    """The rank that a RankError names; None: this one."""
    return error.rank if isinstance(error, RankError) else None
