"""Stored results as one page, HTML that needs no network or Markdown."""

from collections.abc import Sequence
from typing import Any

from viewmill.tools.bench.charts import charts_of
from viewmill.tools.bench.sections import sections, text_of
from viewmill.tools.bench.stored import Stored
from viewmill.tools.html_page import environment, plotly_script, script_json, shown
from viewmill.tools.inspection.page import tree_of

TEMPLATE = "bench/results.html.j2"


def render(stored: Sequence[Stored], command: str) -> str:
    """The page: what was asked and what was reached, then each result with its plots and tables."""
    entries = [entry_of(one) for one in stored]
    charts = [tree_of(chart) for one in stored for chart in charts_of(one.result, one.name)]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            benches=grouped(entries),
            entries=entries,
            met=sum(entry["met"] for entry in entries),
            asked=sum(len(entry["goals"]) for entry in entries),
            charts=script_json(charts),
            command=command,
            plotly=plotly_script(),
        )
    )


def entry_of(one: Stored) -> dict[str, Any]:
    """What the template prints of a result; all texts."""
    result = one.result
    return {
        "name": one.name,
        "bench": result.bench,
        "notes": one.notes is not None,
        "ran_on": ran_on(result.fingerprint),
        "packages": {name: str(version) for name, version in result.fingerprint.get("packages", {}).items()},
        "settings": {name: shown(text_of(value), 400) for name, value in _flat(result.settings).items()},
        "load": load_text(result.load_average),
        "made": made_text(result.made),
        "goals": [
            {"name": goal.name, "found": f"{goal.found:.4g}", "asked": goal.asked, "met": goal.met}
            for goal in one.goals
        ],
        "met": sum(goal.met for goal in one.goals),
        "sections": sections(result.figures),
    }


def grouped(entries: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Entries by benchmark, in order of its first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry["bench"], []).append(entry)
    return found


def ran_on(fingerprint: dict[str, Any]) -> str:
    """The machine in a line."""
    gpus = fingerprint.get("gpus") or []
    memory = fingerprint.get("memory_bytes")
    words = [f"{fingerprint.get('cpu_count', '?')} x {fingerprint.get('cpu', '?')}"]
    allowed, quota = fingerprint.get("cpus_allowed"), fingerprint.get("cpu_quota")
    words += [f"{allowed} of them allowed"] if allowed not in (None, fingerprint.get("cpu_count")) else []
    words += [f"a quota of {quota:g}"] if quota is not None else []
    words += [f"{memory / 2**30:.0f} GiB"] if memory is not None else []
    words += [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)] or ["no GPU"]
    words += [f"torch threads: {fingerprint.get('torch_threads', '?')}", str(fingerprint.get("system", ""))]
    return ", ".join([*words, f"Python {fingerprint.get('python', '?')}"])


def made_text(made: dict[str, Any] | None) -> str:
    """Command, date and commit in a line."""
    if made is None:
        return ""
    commit = "" if made.get("commit") is None else f", at commit {made['commit']}"
    return shown(f"{made.get('command', '?')}; {made.get('date', '?')}{commit}", 400)


def load_text(load: dict[str, Any] | None) -> str:
    """How busy the machine was: the load average of a minute before and after."""
    if load is None:
        return ""
    return ", ".join(f"{when} {text_of(values[0])}" for when, values in load.items())


def markdown(stored: Sequence[Stored]) -> str:
    """The same without plots, for a README."""
    lines = ["# Results of the benchmarks", "", *summary_lines(stored)]
    for one in stored:
        lines += _entry_lines(entry_of(one))
    return "\n".join(lines) + "\n"


def _entry_lines(entry: dict[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in entry["settings"].items())
    given = f"; {escaped(settings)}" if settings else ""
    lines = [
        "",
        f"## {escaped(entry['name'])}",
        "",
        f"{entry['bench']}, on {escaped(entry['ran_on'])}{given}.",
    ]
    lines += [f"Made by {escaped(entry['made'])}."] if entry["made"] else []
    if entry["goals"]:
        met = {True: "met", False: "missed"}
        rows = [(goal["name"], goal["found"], goal["asked"], met[goal["met"]]) for goal in entry["goals"]]
        lines += ["", *table_lines(("goal", "found", "asked", ""), rows)]
    for section in entry["sections"]:
        title = [f"{escaped(section.title)}:", ""] if section.title else []
        lines += ["", *title, *table_lines(section.headings, section.rows)]
    return lines


def summary_lines(stored: Sequence[Stored]) -> list[str]:
    """A line a result: goals met of those asked, and the missed ones."""
    return table_lines(("result", "benchmark", "goals met", "missed"), summary_rows(stored))


def summary_rows(stored: Sequence[Stored]) -> list[tuple[str, ...]]:
    """Cells of `summary_lines`."""
    rows: list[tuple[str, ...]] = []
    for one in stored:
        goals = one.goals
        met = f"{sum(goal.met for goal in goals)} of {len(goals)}" if goals else "none asked"
        missed = "; ".join(f"{goal.name} {goal.found:.4g} ({goal.asked})" for goal in goals if not goal.met)
        rows.append((one.name, one.result.bench, met, missed))
    return rows


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(escaped(heading) for heading in headings)} |", f"|{'---|' * len(headings)}"]
    return lines + [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows]


def escaped(text: str) -> str:
    """So that a text is no markup and stays in its cell."""
    plain = shown(text, 1000)
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in plain)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        rows |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return rows
