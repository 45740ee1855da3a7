"""A profile as one HTML page: verdict, ceilings, waterfall, time line, ranks; it needs no network."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from viewmill.engine.spans import Part
from viewmill.tools.doctor.costs import AUGMENT, COPY, DECODE, LOADER, READ
from viewmill.tools.doctor.diagnosis import COMMUNICATION, SENT, Intervals, observed_parts
from viewmill.tools.doctor.stopwatch import LOOP
from viewmill.tools.html_page import environment, plotly_script, script_json

TEMPLATE = "doctor/page.html.j2"
# One hue a kind of work, which both colour schemes show: data, computing, other ranks, keeping.
_DATA, _COMPUTE, _SENT, _KEPT = "#c9822b", "#3f7fc1", "#9a5fb5", "#7a8798"
_WHOLE, UNEXPLAINED = "#8593a6", "unexplained"
COLOURS = {
    READ: _DATA,
    DECODE: _DATA,
    AUGMENT: _DATA,
    COPY: _DATA,
    Part.DATA.value: _DATA,
    Part.COPY.value: _DATA,
    Part.FORWARD.value: _COMPUTE,
    Part.LOSS.value: "#2f9e8f",
    Part.BACKWARD.value: "#2c5f9e",
    Part.OPTIMISER.value: "#5aa9dd",
    Part.TEACHER.value: "#79b4e8",
    COMMUNICATION: _SENT,
    UNEXPLAINED: "#c0504d",
}
LEAST_SHOWN = 0.002  # of a step
DISTINGUISHED = 150  # parts of a time line that can be told apart, on a telephone too
SHORT_IN_A_ROW = 8  # of these parts


def render(found: dict[str, Any]) -> str:
    """The page of a profile; `found` is what `examine` returns, with `recipe` and `verdict`."""
    diagnosis = found["diagnosis"]
    charts = [ceilings(found), waterfall(found), timeline(found)]
    charts += [rank_map(found)] if found["world_size"] > 1 else []
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            found=found,
            diagnosis=diagnosis,
            settings=found["settings"],
            charts=script_json(charts),
            shown=[{"bars": None, **chart} for chart in charts],
            plotly=plotly_script(),
        )
    )


def ceilings(found: dict[str, Any]) -> dict[str, Any]:
    """Images/s of each stage if nothing else held it up, beside those of the run."""
    now = found["diagnosis"]["images_per_s"]
    stages = [stage for stage in found["diagnosis"]["stages"] if stage["ceiling"] is not None]
    stages = [stage for stage in stages if stage["ceiling"] < 1e3 * now][::-1]
    names = [stage["name"] for stage in stages]
    return {
        "kind": "ceilings",
        "title": "Ceilings",
        "note": "images/s of each stage alone; the line is the run",
        "height": 60 + 26 * max(4, len(stages)),
        "names": names,
        "values": [stage["ceiling"] for stage in stages],
        "colours": [colour(name) for name in names],
        "now": now,
        "range": [
            math.log10(now / 2),
            math.log10(1.2 * max((one["ceiling"] for one in stages), default=now)),
        ],
    }


def waterfall(found: dict[str, Any]) -> dict[str, Any]:
    """What each stage answers for, one after the other up to the measured step."""
    diagnosis = found["diagnosis"]
    least = LEAST_SHOWN * diagnosis["step_s"]
    shown = [stage for stage in diagnosis["stages"] if stage["charged_s"] >= least]
    lengths = [1000 * stage["charged_s"] for stage in shown]
    whole = 1000 * diagnosis["step_s"]
    lengths.append(whole - math.fsum(lengths))
    names = [*(stage["name"] for stage in shown), UNEXPLAINED]
    return {
        "kind": "waterfall",
        "title": "Waterfall",
        "note": "ms of a step that each stage answers for; what is hidden behind others is charged nothing",
        "height": 330,
        "names": [*names, "step"],
        "lengths": [*lengths, whole],
        "starts": [*itertools.accumulate(lengths[:-1], initial=0.0), 0.0],
        "colours": [*(colour(name) for name in names), _WHOLE],
    }


def timeline(found: dict[str, Any]) -> dict[str, Any]:
    """The training thread of each rank over the last steps that were measured."""
    bars: dict[str, dict[str, list[Any]]] = {}
    for number, rank in enumerate(found["ranks"]):
        whole_s, start_s = sum(lap[-1][2] for lap in rank["timeline"] if lap), 0.0
        for lap in rank["timeline"]:
            for name, begin_s, end_s in told_apart(lap, whole_s / DISTINGUISHED):
                bar = bars.setdefault(name, {"lanes": [], "starts": [], "lengths": []})
                bar["lanes"].append(f"rank {number}")
                bar["starts"].append(1000 * (start_s + begin_s))
                bar["lengths"].append(1000 * (end_s - begin_s))
            start_s += lap[-1][2] if lap else 0.0
    return {
        "kind": "timeline",
        "title": "Time line",
        "note": "ms; what the training thread does in the last steps; short parts in a row are one",
        "height": 80 + 40 * len(found["ranks"]),
        "bars": [{"name": name, "colour": colour(name), **bar} for name, bar in bars.items()],
    }


def told_apart(lap: Sequence[Sequence[Any]], least_s: float) -> list[tuple[str, float, float]]:
    """The segments of a lap as a screen can show them: short ones in a row as one of each part.

    A BatchNorm over ranks alone makes a hundred of them a step; drawn one by one, on less than a pixel each,
    the last colour that is drawn would hide the others.
    """
    found: list[tuple[str, float, float]] = []
    short: dict[str, float] = {}
    since_s = 0.0

    def put_short() -> None:
        nonlocal since_s
        for name, seconds in short.items():
            found.append((name, since_s, since_s + seconds))
            since_s += seconds
        short.clear()

    for name, begin_s, end_s in lap:
        part = shown_part(name)
        if end_s - begin_s >= least_s:
            put_short()
            found.append((part, begin_s, end_s))
            since_s = end_s
            continue
        short[part] = short.get(part, 0.0) + end_s - begin_s
        if sum(short.values()) >= SHORT_IN_A_ROW * least_s:
            put_short()
    put_short()
    return found


def rank_map(found: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each part on each rank: a straggler is dark where others are light."""
    every = Intervals(**found["intervals"])
    rows = [observed_parts(rank, every) for rank in found["ranks"]]
    names = [name for name in rows[0] if max(row.get(name, 0.0) for row in rows) > 1e-5]
    return {
        "kind": "map",
        "title": "Ranks",
        "note": "ms of a step by rank and part, in the loop; who waits least for the others is waited for",
        "height": 120 + 28 * len(rows),
        "names": names,
        "lanes": [f"rank {number}" for number in range(len(rows))],
        "values": [[1000 * row.get(name, 0.0) for name in names] for row in rows],
    }


def shown_part(name: str) -> str:
    """A part of a lap under the name that it has elsewhere on the page."""
    return COMMUNICATION if name in SENT else name


def colour(name: str) -> str:
    """Of a stage or part."""
    return COLOURS.get(name, _DATA if name in LOADER else _KEPT if name != LOOP else "#a9b3c0")
