"""Which tiles of the N x N kernel a rank computes: all of its rows, each pair of own rows once."""

# m rows of this rank, N rows of all ranks

from collections.abc import Callable, Iterator


def nothing() -> None:
    """All rows are there."""


def tiles(
    own: slice, total: int, size: int, arrived: Callable[[], object] = nothing
) -> Iterator[tuple[slice, slice, bool]]:
    """(rows, columns, mirrored) of tiles that cover the own rows of the N x N kernel.

    Rows and columns count in the global batch. The kernel is symmetric: among the own rows only tiles on and
    above the diagonal are given, and a mirrored one serves its columns' rows too. Own rows meet the diagonal
    only where rows == columns.

    Args:
        own: this rank's rows among all.
        total: N.
        size: rows and columns of a tile; those at the edges are smaller.
        arrived: called once, between the tiles among own rows and those with rows of other ranks.
    """
    bands = [slice(top, min(top + size, own.stop)) for top in range(own.start, own.stop, size)]
    for rows in bands:
        for left in range(rows.start, own.stop, size):
            yield rows, slice(left, min(left + size, own.stop)), left != rows.start
    arrived()
    for rows in bands:
        for begin, end in ((0, own.start), (own.stop, total)):
            for left in range(begin, end, size):
                yield rows, slice(left, min(left + size, end)), False


def among_own(part: slice, own: slice) -> slice:
    """The place of rows of the global batch among a rank's own."""
    return slice(part.start - own.start, part.stop - own.start)
