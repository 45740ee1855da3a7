"""A small plan whose every number is round, and ways to change one."""

from typing import Any

from viewmill.engine.config import RunConfig, config_from
from viewmill.tools.planning.cluster import Cluster, load_cluster
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.measured import Measured, ViewCosts
from viewmill.tools.planning.predict import Plan
from viewmill.tools.planning.workload import Workload

WORK = Workload(
    sizes=(32, 32, 16),
    conv_flops=2e9,
    matmul_flops=1e9,
    teacher_conv_flops=0.0,
    teacher_matmul_flops=0.0,
    activation_bytes=1e6,
    weights=1_000_000,
    head_weights=200_000,
    embedding_dim=64,
    view_pixels=2 * 32**2 + 16**2,
    batchnorm_channels=(),
    teacher_batchnorm_channels=(),
    forwards=2,
)
RATES = Measured(
    source="round numbers",
    shares_cores=False,
    conv_flops_per_s=1e12,
    matmul_flops_per_s=1e12,
    loss_flops_per_s=1e12,
    weights_per_s=1e9,
    step_overhead_s=0.0,
    views=ViewCosts(source="round numbers", image_s=1e-3, source_pixel_s=0.0, view_pixel_s=0.0),
)


def config(**changes: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "epochs": 10,
        "batch_size": 64,
        "device": "cuda",
        "method": {"projector": {"layers": 2, "hidden": 64, "dim": 64}},
        "views": {"num_threads": 4, "executor": "host"},
    }
    return config_from(tree | changes, where="plans")


def cluster(**changes: Any) -> Cluster:
    return load_cluster("a100", ["nodes=2"]).model_copy(update=changes)


def plan(run: RunConfig | None = None, **changes: Any) -> Plan:
    images = Images(count=6400, mean_bytes=1e5, mean_pixels=1e5)
    made = Plan(run or config(), WORK, images, cluster(), RATES)
    return made._replace(**changes)
