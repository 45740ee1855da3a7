"""Tables for the terminal: where it is narrow, lines end between words, and within one only if they must."""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

# Of box.SIMPLE with rich's padding: two of each column, one between two, and one at each edge.
BESIDE_A_COLUMN, AT_THE_EDGES = 3, 1


class WordTable(Table):
    """A table that shares the terminal's width by `shared_widths`, behind the columns that may not wrap."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - BESIDE_A_COLUMN * len(self.columns) - AT_THE_EDGES
        whole = [column for column in self.columns if column.no_wrap]
        for column in whole:
            column.width = _longest(column)
        others = [column for column in self.columns if not column.no_wrap]
        left = room - sum(_longest(column) for column in whole)
        widths = shared_widths(
            [_longest_word(one) for one in others], [_longest(one) for one in others], left
        )
        for column, width in zip(others, widths, strict=True):
            column.width = width
        yield from super().__rich_console__(console, options)


def new_table(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, numbers_from: int = 1
) -> Table:
    """A plain table; columns from `numbers_from` on are flush right."""
    table = WordTable(title=Text(title), box=box.SIMPLE, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number >= numbers_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def shared_widths(words: Sequence[int], longest: Sequence[int], room: int) -> list[int]:
    """Widths of columns, in characters, that together take at most `room`, or one each.

    Args:
        words: the longest word of each column. longest: its longest cell.

    Each column has its longest word, and of what is left an equal share, or what its longest cell lacks where
    that is less: short cells stay on one line. Where not even the words fit, the widest are cut to one width.
    """
    if sum(longest) <= room:
        return list(longest)
    spare = room - sum(words)
    if spare < 0:
        level = max((one for one in range(1, max(words)) if _cut(words, one) <= room), default=1)
        return [min(word, level) for word in words]
    lacking = [whole - word for word, whole in zip(words, longest, strict=True)]
    widths = list(words)
    by_need = sorted(range(len(words)), key=lacking.__getitem__)
    for done, place in enumerate(by_need):
        given = min(lacking[place], spare // (len(by_need) - done))
        widths[place] += given
        spare -= given
    return widths


def _cut(words: Sequence[int], level: int) -> int:
    return sum(min(word, level) for word in words)


def _texts(column: Column) -> list[str]:
    return [str(column.header), *(str(cell) for cell in column.cells)]


def _longest(column: Column) -> int:
    return max(cell_len(line) for text in _texts(column) for line in text.split("\n"))


def _longest_word(column: Column) -> int:
    return max((cell_len(word) for text in _texts(column) for word in text.split()), default=0)
