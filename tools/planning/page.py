"""The page of a plan: one file that needs no network."""

from viewmill.tools.html_page import environment, figure, plotly_script, script_json
from viewmill.tools.planning.reliability import NEVER
from viewmill.tools.planning.report import Report, tables_of
from viewmill.tools.planning.scaling import charts_of

TEMPLATE = "planning/page.html.j2"


def render(report: Report, name: str) -> str:
    """The page; every text is escaped, plotly.js stands in it once."""
    made = report.prediction
    own = None if report.reliable is None else report.reliable.own
    goodput = "–" if own is None else f"under {NEVER:.0%}"
    if own is not None and own.goodput is not None:
        goodput = f"{100 * own.goodput.goodput:.1f} %"
    tiles = [
        (figure(made.images_per_s), "images/s"),
        (made.binding, "binds"),
        (f"{made.hours:,.4g}", "hours, without failures"),
        (goodput, "goodput, simulated"),
        (f"{made.memory.peak / 1e9:,.3g} GB", "memory of a rank"),
        (str(made.world_size), "ranks"),
    ]
    tables = [
        (title[:1].upper() + title[1:], "; ".join(report.lines()) if place == 0 else "", headings, rows)
        for place, (title, headings, rows) in enumerate(tables_of(report))
    ]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            name=name,
            tiles=tiles,
            tables=tables,
            formulas=[formula.line() for formula in made.formulas],
            command=f"viewmill plan, {name}",
            charts=script_json(charts_of(report.curves)),
            plotly=plotly_script(),
        )
    )
