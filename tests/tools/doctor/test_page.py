"""The page of a profile, of figures made by hand: what its charts add up to, and that text stays text."""

import itertools
import math
import re
from typing import Any

import pytest
from rich.console import Console
from viewmill.engine.config import RunConfig
from viewmill.engine.spans import Part
from viewmill.tools.doctor.changes import best, predicted
from viewmill.tools.doctor.collectives import AGREEMENT, GRADIENT, KINDS, STATISTICS, on_stream
from viewmill.tools.doctor.costs import DECODE
from viewmill.tools.doctor.diagnosis import COMMUNICATION, Intervals, diagnose
from viewmill.tools.doctor.page import ceilings, rank_map, render, timeline, told_apart, waterfall
from viewmill.tools.doctor.verdict import tables, verdict

EVERY = Intervals(log=10, checkpoint=50.0)
NESTED = [["backward", 0.2, 0.3], [GRADIENT, 0.3, 0.36], ["backward", 0.36, 0.4]]


def rank(forward: float, sent: float) -> dict[str, Any]:
    """Figures of one rank: 0.4 s of views for 0.3 s of training, and what it waits for the others."""
    alone = {Part.FORWARD.value: 0.1, Part.LOSS.value: 0.02, Part.BACKWARD.value: 0.18, GRADIENT: 0.01}
    together = {Part.DATA.value: 0.1, **alone, Part.FORWARD.value: forward, GRADIENT: sent}
    return {
        "together": together,
        "logging_s": 0.02,
        "checkpoint_s": 0.5,
        "alone": {"": alone},
        "alone_cpu_s": {"": 0.3},
        "loader": {
            "read": [0.01, 0.01],
            "make": [0.4, 0.4],
            "decode": [0.3, 0.3],
            "threads 2": [0.2, 0.4],
            "short 256": [0.25, 0.25],
            "decode short 256": [0.15, 0.15],
        },
        "beside": [1.25, 1.5],
        "fed": {},
        "fed_s": None,
        "rounds": [{}],
        "cores": 8.0,
        "other_work": 0.0,
        "torch_threads": 4,
        "sent": {kind: {"calls": 3.0, "bytes": 1e6, "exposed_s": sent, "hidden_s": 0.0} for kind in KINDS},
        "timeline": [[["wait for data", 0.0, 0.1], ["forward", 0.1, 0.2], *NESTED], [["forward", 0.0, 0.2]]],
        "loader_line": "read 1 %, make 99 %",
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Of two ranks, the second of which is slow at its forward."""
    config = RunConfig.model_validate({"epochs": 1, "batch_size": 8})
    ranks = [rank(forward=0.1, sent=0.21), rank(forward=0.3, sent=0.01)]
    diagnosis = diagnose(ranks, EVERY, images=8)
    changes = predicted(ranks[1], config, EVERY, diagnosis["step_s"])
    made = {
        "recipe": "</script><b>mine</b>",
        "settings": config.model_dump(mode="json"),
        "executor": "host",
        "world_size": 2,
        "device": "cpu",
        "images": 8,
        "blocks": {"rounds": 3, "steps": 8},
        "intervals": {"log": EVERY.log, "checkpoint": EVERY.checkpoint},
        "diagnosis": diagnosis,
        "changes": changes,
        "best": best(changes),
        "arithmetic": {"flops": 4e9, "peak_flops_per_s": 1e11, "peak": "measured"}
        | {"model_flops": 3e9, "mfu": 0.0725, "hfu": 0.0975},
        "ranks": ranks,
    }
    return made | {"verdict": verdict(made)}


def test_the_waterfall_adds_up_to_the_measured_step(found: dict[str, Any]) -> None:
    chart = waterfall(found)
    assert chart["names"][-2:] == ["unexplained", "step"]
    *lengths, whole = chart["lengths"]
    assert whole == pytest.approx(1000 * found["diagnosis"]["step_s"])
    assert math.fsum(lengths) == pytest.approx(whole)
    *starts, first = chart["starts"]
    assert first == 0.0
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    assert [0.0, *ends[:-1]] == pytest.approx(starts)


def test_what_is_hidden_on_a_gpu_is_told_as_not_known(found: dict[str, Any]) -> None:
    ranks = [one | {"sent": on_stream(one["sent"], one["together"])} for one in found["ranks"]]
    of_gpu = found | {"device": "cuda", "ranks": ranks}
    page = render(of_gpu)
    assert page.count("not known</td>") == len(KINDS)
    assert "Waited: by the training" in page
    assert "not known" not in render(found)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tables(of_gpu))
    assert capture.get().count("not known") == 2  # ranks


def test_a_ceiling_is_what_a_stage_would_reach_alone(found: dict[str, Any]) -> None:
    chart = ceilings(found)
    by_name = dict(zip(chart["names"], chart["values"], strict=True))
    assert by_name[DECODE] == pytest.approx(8 / 0.3)
    assert by_name["storage read"] == pytest.approx(8 / (0.01 / 4))  # four threads read
    assert 10 ** chart["range"][0] < chart["now"] < 10 ** chart["range"][1]


def test_the_time_line_puts_steps_behind_each_other_and_collectives_under_one_name(
    found: dict[str, Any],
) -> None:
    bars = {bar["name"]: bar for bar in timeline(found)["bars"]}
    assert bars[COMMUNICATION]["starts"] == pytest.approx([300.0, 300.0])  # of both ranks
    assert bars["forward"]["starts"] == pytest.approx([100.0, 400.0, 100.0, 400.0])
    assert bars["backward"]["lengths"] == pytest.approx([100.0, 40.0, 100.0, 40.0])
    assert set(bars["forward"]["lanes"]) == {"rank 0", "rank 1"}


def test_short_segments_in_a_row_are_drawn_together_and_none_is_lost() -> None:
    lap: list[tuple[str, float, float]] = [("wait for data", 0.0, 0.5)]
    for number in range(100):
        lap.append(("backward", 0.5 + 0.004 * number, 0.501 + 0.004 * number))
        lap.append((STATISTICS, 0.501 + 0.004 * number, 0.504 + 0.004 * number))
    lap.append(("optimiser", 0.9, 1.0))
    drawn = told_apart(lap, least_s=0.01)
    assert len(drawn) < 20
    assert (drawn[0], drawn[-1]) == (lap[0], lap[-1])
    assert all(one[2] == pytest.approx(then[1]) for one, then in itertools.pairwise(drawn))
    for name, seconds in (("backward", 0.1), (COMMUNICATION, 0.3)):
        assert math.fsum(end - begin for part, begin, end in drawn if part == name) == pytest.approx(seconds)


def test_the_map_of_ranks_shows_the_slow_part_and_who_waits(found: dict[str, Any]) -> None:
    chart = rank_map(found)
    column = chart["names"].index
    first, second = chart["values"]
    assert second[column("forward")] == pytest.approx(300.0)
    assert (first[column(COMMUNICATION)], second[column(COMMUNICATION)]) == pytest.approx((210.0, 10.0))
    assert found["diagnosis"]["rank"] == 1
    assert any(line.startswith("rank 1 holds the others up: forward takes 300") for line in found["verdict"])


def test_the_page_holds_everything_in_one_file_and_text_stays_text(found: dict[str, Any]) -> None:
    page = render(found)
    assert "<b>mine</b>" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|img|link)[^>]+(src|href)=", page)
    for kind in ("ceilings", "waterfall", "timeline", "map"):
        assert f'"kind": "{kind}"' in page
    texts = (STATISTICS, AGREEMENT, "views.num_threads=2", "convert --resize short=256")
    for text in (*texts, "&times;1.25, &times;1.50"):
        assert text in page.replace("<wbr>", "")
