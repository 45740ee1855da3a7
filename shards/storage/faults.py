"""Whose fault a failed call is: the file's, which is quarantined, or the machine's, which ends it all."""

import errno

# A disk or a mount that fails, or too little of what a process needs: the next call may well succeed.
_OF_THE_MACHINE = frozenset(
    {
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENODEV,
        errno.ENXIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.EUCLEAN,
    }
)


def is_of_the_machine(error: OSError) -> bool:
    """Whether not the file but the machine, its disk or its network is at fault."""
    return error.errno in _OF_THE_MACHINE
