"""Constants out of a profile: its own step comes back, what it cannot say is told, other runs are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.spans import Part
from viewmill.tools.doctor.collectives import AGREEMENT, GRADIENT, STATISTICS
from viewmill.tools.doctor.diagnosis import Intervals, diagnose
from viewmill.tools.planning.cluster import Cluster, load_cluster
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.measured import Measured, from_datasheet
from viewmill.tools.planning.predict import Plan, predict
from viewmill.tools.planning.profiled import is_same_device, measured_for
from viewmill.tools.planning.workload import count_workload

from tests.engine.tiny import tiny_config

IMAGES = Images(count=100, mean_bytes=1e4, mean_pixels=5e4)
EVERY = Intervals(log=10, checkpoint=20.0)
TWO_CORES = load_cluster("cpu", ["ranks_per_node=1"])


def rank(**changes: Any) -> dict[str, Any]:
    """0.32 s of training, 0.2 s of views; a checkpoint of a second every 20 steps."""
    alone = {Part.FORWARD.value: 0.1, Part.LOSS.value: 0.01, Part.BACKWARD.value: 0.18, "optimiser": 0.02}
    figures = {
        "together": {**alone, "loop": 0.01, Part.DATA.value: 0.05},
        "logging_s": 0.02,
        "checkpoint_s": 1.0,
        "alone": {"": {**alone, "loop": 0.01}},
        "alone_cpu_s": {"": 0.32},
        "loader": {"read": [0.01, 0.01], "make": [0.2, 0.2], "decode": [0.05, 0.05]},
        "beside": None,
        "fed": {},
        "rounds": [{}],
        "cores": 2.0,
        "torch_threads": 1,
    }
    return figures | changes


def profile(config: RunConfig | None = None, ranks: int = 1, **changes: Any) -> dict[str, Any]:
    config = config or tiny_config()
    figures = [rank(**changes)] * ranks
    return {
        "settings": config.model_dump(mode="json"),
        "executor": "host",
        "world_size": ranks,
        "device": "cpu",
        "data": IMAGES.model_dump(),
        "diagnosis": diagnose(figures, EVERY, config.batch_size),
        "ranks": figures,
        "environment": {"gpus": [], "cpu": "one"},
        "verdict": ["more that is not read"],
    }


def written(folder: Path, tree: Any) -> Path:
    path = folder / "profile.json"
    path.write_text(json.dumps(tree))
    return path


def planned(rates: Measured, config: RunConfig, cluster: Cluster) -> float:
    """Seconds of a step."""
    return predict(Plan(config, count_workload(config), IMAGES, cluster, rates)).step_s


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beside": [1.2, 1.3]},
        {"beside": [1.1, 1.4], "loader": {"read": [0.01, 0.01], "make": [0.9, 0.9], "decode": [0.3, 0.3]}},
        {"cores": 1.0, "beside": [2.0, 2.0]},
        {"cores": 1.5, "torch_threads": 2, "beside": [1.8, 2.0]},
    ],
    ids=["beside each other", "held up", "waits for views", "one core", "training on all cores"],
)
def test_the_profiled_step_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    tree = profile(**changes)
    as_launched = tiny_config(torch_threads=None)
    rates = measured_for(written(tmp_path, tree), TWO_CORES, as_launched)
    longest = max(tree["diagnosis"]["paths"].values())
    # A plan counts checkpoints under failures; here one is 0.05 s of a step, on the training's path.
    found = planned(rates, tiny_config(), TWO_CORES)
    assert longest - 0.05 * 1.2 - 1e-9 <= found <= longest + 1e-9
    assert f"{8 / found:,.4g} by these" in rates.source


def test_a_training_that_takes_twice_as_long_has_half_the_speed(tmp_path: Path) -> None:
    rates = measured_for(written(tmp_path, profile()), TWO_CORES, tiny_config())
    slow = {**rank()["alone"][""], Part.FORWARD.value: 0.2, Part.BACKWARD.value: 0.36}
    slower = measured_for(written(tmp_path, profile(alone={"": slow})), TWO_CORES, tiny_config())
    assert slower.conv_flops_per_s == pytest.approx(rates.conv_flops_per_s / 2)
    assert slower.weights_per_s == pytest.approx(rates.weights_per_s)
    assert slower.step_overhead_s == pytest.approx(rates.step_overhead_s)


def test_twice_the_images_of_a_rank_take_twice_the_networks_time(tmp_path: Path) -> None:
    rates = measured_for(written(tmp_path, profile(cores=1.0)), TWO_CORES, tiny_config())
    one, two = (planned(rates, tiny_config(batch_size=size), TWO_CORES) for size in (8, 16))
    fixed = rates.step_overhead_s + count_workload(tiny_config()).weights / rates.weights_per_s
    assert two - fixed == pytest.approx(2 * (one - fixed), rel=0.01)  # the loss's pairs are next to nothing


def test_two_ranks_on_cores_say_what_collectives_take(tmp_path: Path) -> None:
    sent = {GRADIENT: 0.03, STATISTICS: 0.04}
    alone = {**rank()["alone"][""], **sent}
    together = {**rank()["together"], **sent, AGREEMENT: 0.01}
    tree = profile(ranks=2, alone={"": alone}, together=together, cores=1.0)
    cluster = load_cluster("cpu")
    rates = measured_for(written(tmp_path, tree), cluster, tiny_config())
    made = predict(Plan(tiny_config(), count_workload(tiny_config()), IMAGES, cluster, rates))
    assert made.seconds["network"] == pytest.approx(0.08, rel=0.02)  # the sum of gradients has a latency too
    assert "collectives; as without it: BatchNorm over more ranks" in rates.source


def of_gpu(name: str, executor: str = "dali") -> dict[str, Any]:
    config = tiny_config(device="cuda", precision="bf16")
    tree = profile(config)
    return tree | {"device": "cuda", "environment": {"gpus": [name]}, "executor": executor}


def test_a_gpus_profile_scales_its_datasheet_and_keeps_what_it_cannot_say(tmp_path: Path) -> None:
    config, cluster = tiny_config(device="cuda", precision="bf16"), load_cluster("h200")
    sheet = from_datasheet(cluster, config)
    rates = measured_for(written(tmp_path, of_gpu("NVIDIA H200")), cluster, config)
    factor = rates.conv_flops_per_s / sheet.conv_flops_per_s
    assert factor != pytest.approx(1)
    assert rates.matmul_flops_per_s == pytest.approx(factor * sheet.matmul_flops_per_s)
    assert (rates.views, rates.latency_s, rates.rank_gb_s) == (sheet.views, None, None)
    assert not rates.shares_cores
    assert "as without it: BatchNorm over more ranks, loss, views, collectives" in rates.source
    by_host = config.model_copy(update={"views": config.views.model_copy(update={"executor": "host"})})
    rates = measured_for(written(tmp_path, of_gpu("NVIDIA H200", "host")), cluster, by_host)
    assert rates.views.source == "viewmill profile: host, views.num_threads=1"


@pytest.mark.parametrize(
    ("tree", "config", "cluster", "told"),
    [
        (profile(), tiny_config(), "h100", "device: measured on cpu, --cluster h100 has H100 SXM 80 GB"),
        (of_gpu("NVIDIA H200"), tiny_config(precision="bf16"), "h100", "device: measured on NVIDIA H200"),
        (of_gpu("NVIDIA H200"), tiny_config(), "cpu", "device: measured on NVIDIA H200, --cluster cpu"),
        (profile(), tiny_config(precision="bf16"), "cpu", "precision: measured with fp32, planned is bf16"),
        (profile(), tiny_config(model={"backbone": "resnet18"}), "cpu", "model.backbone: measured with test"),
        (
            profile(),
            tiny_config(model={"backbone": "test_resnet", "compile": True}),
            "cpu",
            "model.compile: ",
        ),
        (profile(), tiny_config(method={"name": "imsvd"}), "cpu", "method.name: measured with hydes"),
        (profile(), tiny_config(views={"executor": "dali"}), "cpu", "views.executor: measured with host"),
        (profile(), tiny_config(torch_threads=2), "cpu", "torch_threads: measured with 1, planned is 2"),
        (
            profile(cores=8.0),
            tiny_config(),
            "cpu",
            "cores: a rank had 8 processors, one of --cluster cpu has",
        ),
    ],
)
def test_constants_of_something_else_are_refused_by_their_field(
    tree: dict[str, Any], config: RunConfig, cluster: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        measured_for(written(tmp_path, tree), load_cluster(cluster, ["nodes=1"]), config)
    assert f"profile.json: {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": None}, "data: "),
        ({"ranks": []}, "ranks: "),
        ({"environment": {}}, "environment.gpus: "),
        ({"diagnosis": {**profile()["diagnosis"], "stages": []}}, "diagnosis.stages: no forward"),
        ({"diagnosis": {**profile()["diagnosis"], "paths": {}}}, "diagnosis.paths: "),
        ({"settings": {"epochs": 1}}, "settings: batch_size"),
    ],
)
def test_a_profile_that_lacks_something_is_refused_by_its_field(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"profile\.json: {told}"):
        measured_for(written(tmp_path, profile() | changes), TWO_CORES, tiny_config())


@pytest.mark.parametrize(
    ("there", "here", "same"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80 GB", True),
        ("NVIDIA H100 PCIe", "H100 SXM 80 GB", False),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32 GB", True),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB", True),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA RTX 9999", "RTX 9999", True),
        ("NVIDIA RTX 9999", "H100 SXM 80 GB", False),
        ("cpu", "cpu", True),
    ],
)
def test_a_gpu_is_known_by_its_model(there: str, here: str, same: bool) -> None:
    assert is_same_device(there, here) is same
