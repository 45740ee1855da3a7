"""From figures to a verdict, with figures made by hand."""

from typing import Any

import pytest
from viewmill.engine.config import RunConfig
from viewmill.engine.spans import Part
from viewmill.tools.doctor.changes import best, predicted
from viewmill.tools.doctor.collectives import GRADIENT
from viewmill.tools.doctor.costs import DECODE
from viewmill.tools.doctor.diagnosis import Intervals, diagnose, intervals
from viewmill.tools.doctor.verdict import held_up, verdict

EVERY = Intervals(log=10, checkpoint=None)


def rank(*, wait: float = 0.0, forward: float = 0.1, sent: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Figures of one rank whose training takes 0.3 s by itself, with 0.1 s of forward."""
    alone = {Part.FORWARD.value: 0.1, Part.BACKWARD.value: 0.2}
    together = {**alone, Part.FORWARD.value: forward, Part.DATA.value: wait, GRADIENT: sent}
    figures = {
        "together": together,
        "logging_s": 0.02,
        "checkpoint_s": 0.0,
        "alone": {"": alone},
        "alone_cpu_s": {"": 0.3},
        "loader": {"read": [0.01, 0.01], "make": [0.5, 0.5], "decode": [0.4, 0.4]},
        "beside": None,
        "fed": {},
        "fed_s": None,
        "rounds": [{}],
        "cores": 8.0,
    }
    return figures | changes


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({"epochs": 1, "batch_size": 8} | changes)


def test_a_loader_that_is_slower_than_the_training_is_charged_the_whole_step() -> None:
    found = diagnose([rank(wait=0.2)], EVERY, images=8)
    assert found["binding"] == DECODE
    assert found["step_s"] == pytest.approx(0.502)  # 0.2 + 0.1 + 0.2, and a line of the log every ten steps
    assert found["model_step_s"] == pytest.approx(0.5, rel=0.01)
    charged = {stage["name"]: stage["charged_s"] for stage in found["stages"]}
    assert charged[DECODE] == pytest.approx(0.4, rel=0.02)
    assert charged["backward"] < 0.01


def test_a_rounds_step_is_held_against_the_stages_of_that_round() -> None:
    """A machine twice as slow in two of three rounds, in the loop as alone, leaves nothing unexplained."""
    slow = rank(wait=0.4, forward=0.2)
    slow["together"][Part.BACKWARD.value] = 0.4
    slow["alone"] = {"": {name: 2 * seconds for name, seconds in slow["alone"][""].items()}}
    slow["loader"] = {name: [2 * seconds for seconds in cost] for name, cost in slow["loader"].items()}
    told = ("together", "alone", "loader")
    fast = rank(wait=0.2)
    rounds = [{name: one[name] for name in told} for one in (fast, slow, slow)]
    medians = fast | {"loader": slow["loader"]}  # as they are where rounds scatter
    found = diagnose([medians | {"rounds": rounds}], EVERY, images=8)
    assert found["unexplained_s"] == pytest.approx(0.0, abs=0.01 * found["step_s"])
    charged = sum(stage["charged_s"] for stage in found["stages"])
    assert charged == pytest.approx(found["model_step_s"])
    assert diagnose([medians], EVERY, images=8)["unexplained_s"] < -0.3


def test_a_round_in_which_no_views_were_made_has_the_cost_of_the_others() -> None:
    whole, figures = rank(wait=0.2), rank(wait=0.2, rounds=[{"loader": {"read": [0.01, 0.01]}}])
    assert diagnose([figures], EVERY, images=8)["model_step_s"] == pytest.approx(
        diagnose([whole], EVERY, images=8)["model_step_s"]
    )


def test_the_rank_that_waits_least_is_the_one_that_is_examined_and_named() -> None:
    ranks = [rank(sent=0.41), rank(forward=0.5, sent=0.01), rank(sent=0.39)]
    found = diagnose(ranks, EVERY, images=8)
    assert found["rank"] == 1
    told = found["straggler"]
    assert (told["rank"], told["part"]) == (1, "forward")
    assert told["waited_s"] == pytest.approx(0.39)
    assert told["elsewhere_s"] == pytest.approx(0.1)


def test_ranks_that_wait_alike_have_no_straggler() -> None:
    assert diagnose([rank(sent=0.2), rank(sent=0.21)], EVERY, images=8)["straggler"] is None


def test_threads_that_halve_the_views_are_predicted_by_the_longest_path_that_is_left() -> None:
    loader = rank()["loader"] | {"threads 2": [0.26, 0.52], "threads 8": [0.05, 0.6]}
    found = predicted(rank(wait=0.2, loader=loader), config(), EVERY, 0.502)
    gains = {change["setting"]: change["gain"] for change in found}
    assert gains["views.num_threads=2"] == pytest.approx(0.5 / 0.302 - 1, rel=0.05)
    assert gains["views.num_threads=8"] == pytest.approx(0.5 / 0.302 - 1, rel=0.02)  # the training's pace
    assert gains["log.every_steps=100"] == pytest.approx(0.0, abs=1e-3)  # hidden behind the loader


def test_what_views_and_training_hold_each_other_up_is_in_the_step_and_told() -> None:
    found = diagnose([rank(beside=[1.5, 1.2])], EVERY, images=8)
    assert held_up(found["slowdown"]) == [
        ("beside each other", "training takes 1.50 times as long, views 1.20 times")
    ]
    # The views, and what they fall behind during the training.
    assert found["model_step_s"] == pytest.approx(0.5 + 0.302 * 1.5 * (1 - 1 / 1.2), rel=0.02)


def test_settings_that_were_tried_with_a_loader_are_predicted_by_their_steps_alone() -> None:
    shares = {"": 1.0, "threads 4": 0.5, "torch threads 2": 1.25, "short 64": 0.4, "double": 1.6, "host": 0.8}
    fed = {name: [share, 0.1] for name, share in shares.items()}
    found = predicted(rank(wait=0.2, fed=fed, fed_s=0.5), config(), EVERY, 0.5)
    gains = {change["setting"]: change["gain"] for change in found}
    assert gains.pop("log.every_steps=100") == pytest.approx(0.0, abs=1e-3)
    assert gains == {
        "convert --resize short=64": pytest.approx(1.5),
        "views.num_threads=4": pytest.approx(1.0),
        "views.executor=host": pytest.approx(0.25),
        "batch_size=16": pytest.approx(0.25),
        "torch_threads=2": pytest.approx(-0.2),
    }
    assert [change["name"] for change in found if change["changes_training"]] == ["resolution", "batch"]
    per_s = {change["setting"]: change["images_per_s"] for change in found}
    assert per_s["batch_size=16"] == pytest.approx(16 / 0.8)
    assert per_s["views.num_threads=4"] == pytest.approx(8 / 0.25)


def test_what_is_around_a_step_counts_where_no_wait_for_views_hides_it() -> None:
    figures = rank(wait=0.2, fed={"": [1.0, 0.4], "threads 4": [0.5, 0.02]}, fed_s=0.5, logging_s=0.5)
    (change,) = [one for one in predicted(figures, config(), EVERY, 0.5) if one["name"] == "threads"]
    # A line of the log is 0.05 s a step, a tenth of the run's; 0.02 of that tenth are waited anyway.
    assert change["gain"] == pytest.approx(1 / (0.5 + 0.1 - 0.02) - 1)


def test_a_batch_twice_as_large_has_twice_the_images() -> None:
    alone = {"": {"forward": 0.1, "backward": 0.2}, "double": {"forward": 0.15, "backward": 0.25}}
    figures = rank(
        alone=alone, alone_cpu_s={"": 0.3, "double": 0.4}, loader={"make": [0.01, 0.01], "decode": [0.0, 0.0]}
    )
    (change,) = [one for one in predicted(figures, config(), EVERY, 0.302) if one["name"] == "batch"]
    assert change["setting"] == "batch_size=16"
    assert change["gain"] == pytest.approx(2 * 0.302 / 0.402 - 1, rel=0.01)
    assert change["images_per_s"] == pytest.approx(8 / 0.302 * (1 + change["gain"]))
    assert change["changes_training"]


def test_the_best_change_trains_the_same_model_where_one_does() -> None:
    threads = {"name": "threads", "gain": 0.2, "changes_training": False}
    batch = {"name": "batch", "gain": 0.9, "changes_training": True}
    assert best([batch, threads]) == threads
    assert best([batch, {**threads, "gain": 0.01}]) == batch
    assert best([{**threads, "gain": 0.01}]) is None


def test_a_checkpoint_counts_as_often_as_the_recipe_writes_one() -> None:
    assert intervals(config(), 50) == Intervals(10, 50.0)
    assert intervals(config(checkpoint={"every_epochs": 2, "every_steps": 100}), 50) == Intervals(10, 50.0)
    assert intervals(config(checkpoint={"every_epochs": None}), 50).checkpoint is None
    figures = rank(checkpoint_s=3.0)
    found = diagnose([figures], Intervals(10, 10.0), images=8)
    (stage,) = [one for one in found["stages"] if one["name"] == "checkpoint"]
    assert stage["alone_s"] == pytest.approx(0.3)


def test_the_verdict_names_stage_rate_threads_and_gain() -> None:
    diagnosis = diagnose([rank(wait=0.2)], EVERY, images=8)
    change = {"setting": "views.num_threads=4", "images_per_s": 26.0, "gain": 0.63, "changes_training": False}
    found = {
        "diagnosis": diagnosis,
        "changes": [change],
        "best": change,
        "settings": config().model_dump(mode="json"),
        "ranks": [rank(other_work=0.0)],
    }
    assert verdict(found) == [
        "decode-bound: 15.94 images/s with views.num_threads=2; views.num_threads=4 -> 26 (+63%)"
    ]


def test_a_step_that_its_stages_do_not_explain_is_told() -> None:
    diagnosis = diagnose([rank(wait=0.9)], EVERY, images=8)
    found = {"diagnosis": diagnosis, "changes": [], "best": None}
    found |= {"settings": config().model_dump(mode="json"), "ranks": [rank(other_work=1.5)]}
    lines = verdict(found)
    assert "other programs kept 1.5 of this machine's processors" in lines[-2]
    assert "more than its stages by themselves explain" in lines[-1]
