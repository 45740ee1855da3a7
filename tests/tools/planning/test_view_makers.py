"""Views on the device that trains: its own time has them, and no thread of the host is advised for them."""

from typing import Any

import pytest
from viewmill.engine.config import load_config
from viewmill.tools.planning.advice import Advice, advise, changes
from viewmill.tools.planning.cluster import load_cluster, presets
from viewmill.tools.planning.images import IMAGENET
from viewmill.tools.planning.measured import from_datasheet, host_views
from viewmill.tools.planning.predict import Plan, Prediction, predict
from viewmill.tools.planning.report import resource_rows
from viewmill.tools.planning.view_makers import is_on_device, not_modelled
from viewmill.tools.planning.workload import count_workload

from tests.tools.planning.plans import WORK, cluster, config, plan


def made_by(executor: str, **changed: Any) -> Prediction:
    return predict(plan(config(views={"num_threads": 1, "executor": executor}), **changed))


@pytest.mark.parametrize(
    ("executor", "device", "there"),
    [
        ("auto", "cuda", True), ("dali", "cuda", True), ("dali-operators", "cuda", True),
        ("resident", "cuda", True), ("host", "cuda", False), ("ffcv", "cuda", False),
        ("auto", "cpu", False), ("dali", "cpu", False), ("resident", "cpu", False),
    ],
)  # fmt: skip
def test_an_executor_works_on_the_device_where_it_can(executor: str, device: str, there: bool) -> None:
    assert is_on_device(config(views={"executor": executor}, device=device)) == there


def test_the_devices_own_time_has_its_views() -> None:
    host, dali = made_by("host"), made_by("auto")
    assert host.seconds["device_views"] == dali.seconds["decode"] == 0
    # 4 images a rank at the A100's 6,000 a second: the views have fewer pixels than the published one.
    assert dali.seconds["device_views"] == pytest.approx(4 / 6000)
    parts = ("compute", "loss", "device_views", "network")
    assert dali.step_s == pytest.approx(
        max(sum(dali.seconds[name] for name in parts), dali.seconds["storage"])
    )
    large = made_by("dali", work=WORK._replace(view_pixels=3 * 224**2))
    assert large.seconds["device_views"] == pytest.approx(3 * 4 / 6000)


def test_threads_of_the_host_change_nothing_and_are_not_advised() -> None:
    gpu = cluster().gpu
    assert gpu is not None
    slow = cluster(gpu=gpu.model_copy(update={"dali_images_per_s": 1.0}), cpu_threads=16, physical_cores=8)
    made = made_by("dali", cluster=slow)
    assert made.binding == "device_views"
    assert made.step.least == made.step.most
    assert not any("num_threads" in change for change, _ in changes(made))
    advice = advise(made)
    assert isinstance(advice, Advice)
    assert advice.change == "views.executor=host"
    assert advice.binding == "compute"


def test_what_is_not_modelled_is_told_and_not_charged() -> None:
    made = made_by("resident")
    assert made.seconds["device_views"] == made.seconds["decode"] == 0
    rows = {row[0].split()[0]: row[1] for row in resource_rows(made)}
    assert rows["device_views"] == "not modelled"
    assert "decode" not in rows
    [told] = not_modelled(made.plan.config, made.plan.images, made.plan.cluster.gpu)
    assert "views.executor=resident" in told
    unknown = load_cluster("a100", ["gpu.dali_images_per_s=null"])
    [told] = not_modelled(config(views={"executor": "dali"}), made.plan.images, unknown.gpu)
    assert "--set gpu.dali_images_per_s" in told
    assert not_modelled(config(), made.plan.images, unknown.gpu) == []


def test_executors_on_the_cores_cost_what_was_measured_of_them() -> None:
    def image_s(executor: str) -> float:
        run = config(views={"executor": executor}, device="cpu")
        return from_datasheet(load_cluster("cpu"), run).views.of_image(187_500, 155_648)

    stored = host_views().of_image(187_500, 155_648)
    assert image_s("host") == image_s("ffcv") == image_s("dali") == stored
    assert image_s("dali-operators") == pytest.approx(5.3 * stored)


@pytest.mark.parametrize("name", [name for name in presets() if name != "cpu"])
def test_every_gpu_has_a_rate_and_says_where_it_is_from(name: str) -> None:
    gpu = load_cluster(name).gpu
    assert gpu is not None
    assert gpu.dali_images_per_s is not None
    assert len(gpu.dali_source) > 5
    assert "own file" not in gpu.dali_source


def test_hydes_on_h100_is_not_bound_by_cores_that_make_no_views() -> None:
    run = load_config("hydes_imagenet", ["precision=bf16", "device=cuda"])
    found = load_cluster("h100")
    made = predict(Plan(run, count_workload(run), IMAGENET, found, from_datasheet(found, run)))
    assert made.plan.config.views.executor == "auto"
    assert made.binding in ("compute", "loss", "device_views", "network")
