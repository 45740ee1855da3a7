"""A preflight's report for people: a line a verdict, the gravest said last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from viewmill.tools.preflight.verdict import FAIL, PASS, WARN, Verdict

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 120
COLOURS = {PASS: "green", WARN: "yellow", FAIL: "bold red"}


def table(verdicts: Sequence[Verdict], title: str) -> "Table":
    """check, verdict, host, what was found and what to do."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title), box=box.SIMPLE, title_justify="left")
    for heading in ("check", "", "host", "found", "what to do"):
        shown.add_column(heading, overflow="fold")
    for one in verdicts:
        remedy = "" if one.status == PASS else one.remedy
        # What hosts tell is text, whatever it holds.
        words = (Text(one.check), Text(one.status, style=COLOURS[one.status]))
        shown.add_row(*words, Text(one.host), Text(plain(one.found)), Text(plain(remedy)))
    return shown


def show(report: dict[str, Any], *, stderr: bool = False) -> None:
    """Prints a report, as `Report.tree` gives it; wide where no terminal says how wide."""
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console = Console(stderr=stderr, width=WIDTH)
    verdicts = [Verdict(**row) for row in report["verdicts"]]
    console.print(table(verdicts, "preflight"))
    hosts = len(set(report["hosts"].values()))
    console.print(last_line(verdicts, hosts, len(report["hosts"]), report["seconds"]), markup=False)


def last_line(verdicts: Sequence[Verdict], hosts: int, ranks: int, seconds: float) -> str:
    """'3 checks fail, 1 warns: ...' or that all is well."""
    bad = [sum(one.status == status for one in verdicts) for status in (FAIL, WARN)]
    who = f"{ranks} rank{'s' * (ranks != 1)} on {hosts} host{'s' * (hosts != 1)}, {seconds:.0f} s"
    if not any(bad):
        return f"fit: {who}"
    return f"{bad[0]} failed, {bad[1]} to look at: {who}"


def plain(text: str) -> str:
    """Without control characters: names and errors come from other machines."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
