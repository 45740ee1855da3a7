"""Tables of the terminal: what gives way where it is narrow."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from viewmill.tools.tables import new_table, shared_widths


def printed(table: Table, width: int) -> str:
    target = io.StringIO()
    Console(file=target, width=width).print(table)
    return target.getvalue()


@pytest.mark.parametrize(
    ("words", "longest", "room", "expected"),
    [
        ([4, 6], [4, 6], 10, [4, 6]),
        ([4, 6], [20, 6], 20, [14, 6]),
        ([4, 6], [14, 26], 20, [9, 11]),  # 10 to spare, and both lack more than half of it
        ([4, 6], [6, 26], 20, [6, 14]),
        ([4, 28, 8], [4, 40, 8], 30, [4, 18, 8]),
        ([9, 9, 2], [9, 9, 2], 11, [4, 4, 2]),
        ([9, 9], [9, 9], 1, [1, 1]),
    ],
)
def test_the_width_is_shared_by_words_first(
    words: list[int], longest: list[int], room: int, expected: list[int]
) -> None:
    assert shared_widths(words, longest, room) == expected


@pytest.mark.parametrize("width", [60, 80, 200])
def test_words_stay_whole_where_they_fit(width: int) -> None:
    note = "a run that is stopped loses more steps than before, and this note is longer than a line"
    rows = [
        ("checkpoint.every_epochs=null", note, "1,253", "+1%"),
        ("log.every_steps=10", "", "127.6", "+3%"),
    ]
    found = printed(new_table("changes", ("setting", "", "images/s", "gain"), rows, numbers_from=2), width)
    lines = found.splitlines()
    assert max(map(len, lines)) <= width
    words = {
        word
        for row in (*rows, ("changes", "setting", "images/s", "gain"))
        for cell in row
        for word in cell.split()
    }
    assert words <= set(found.split())


def test_a_word_that_does_not_fit_is_folded_and_nothing_is_lost() -> None:
    table = new_table("", ("name", "images"), [("convert/photographs_50_two_workers", "12,345")])
    found = printed(table, 30)
    assert "12,345" in found
    assert "convert/photographs_50_two_workers" in "".join(found.replace("12,345", "").split())
    assert max(map(len, found.splitlines())) <= 30


def test_a_column_that_must_not_wrap_takes_its_longest_cell() -> None:
    table = new_table(
        "", ("", "text"), [("IMSVD, 100 epochs (IMSVD)", "of as many words as a line cannot take")]
    )
    table.columns[0].no_wrap = True
    assert "IMSVD, 100 epochs (IMSVD)" in printed(table, 50)
