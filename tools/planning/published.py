"""Published running times of IMSVD and its peers beside predictions that nothing was fitted to."""

# D width of the last layer, P weights, n images a rank, V = 2 views

from itertools import pairwise
from typing import Any, NamedTuple

from viewmill.engine.config import RunConfig, load_config
from viewmill.tools.planning.cluster import load_cluster
from viewmill.tools.planning.images import IMAGENET
from viewmill.tools.planning.measured import Measured, ViewCosts, from_datasheet
from viewmill.tools.planning.predict import Plan, Prediction, predict
from viewmill.tools.planning.workload import FLOAT32, Workload, count_workload

CONTEXT_GB = 0.8  # of CUDA and its libraries on a V100; assumption


class PublishedRun(NamedTuple):
    """One row: 100 epochs of ImageNet with ResNet-50, two views of 224 pixels, batch 2,048, 32 V100, AMP."""

    name: str
    cluster: str
    head: tuple[int, ...]  # widths behind the backbone's 2048
    has_teacher: bool  # a second network that goes forward alone
    matrix_dim: int  # a matrix of the loss that every rank has whole; 0: none
    hours: float
    peak_gb: float | None
    source: str


TABLE_IV, TABLE_VI, TABLE_VII = ("IMSVD, Table IV", "IMSVD, Table VI", "IMSVD, Table VII")
# Heads: IMSVD, VICReg and Barlow Twins as IMSVD's section V says; BYOL's projector and predictor 4096-256
# (Grill et al. 2020); SwAV's 2048-128 with 3,000 prototypes (Caron et al. 2020). The clusters of Table IV's
# peers are not told: their times are those of VICReg's own table; DGX-1 is an assumption.
ROWS = (
    PublishedRun("IMSVD", "v100_npl", (8192, 8160), False, 8160, 8.5, 10.4, TABLE_IV),
    PublishedRun("SwAV", "v100", (2048, 128, 3000), False, 0, 9.0, 9.5, TABLE_IV),
    PublishedRun("BYOL", "v100", (4096, 256, 4096, 256), True, 0, 10.0, 14.6, TABLE_IV),
    PublishedRun("VICReg", "v100", (8192, 8192, 8192), False, 8192, 11.0, 11.3, TABLE_IV),
    PublishedRun("Barlow Twins", "v100", (8192, 8192, 8192), False, 8192, 12.0, 11.3, TABLE_IV),
    PublishedRun("IMSVD, 3 layers", "v100_npl", (8192, 8192, 8160), False, 8160, 9.6, 11.5, TABLE_VI),
    PublishedRun("IMSVD, 4 layers", "v100_npl", (8192, 8192, 8192, 8160), False, 8160, 10.8, 12.5, TABLE_VI),
    PublishedRun("IMSVD, D = 960", "v100_npl", (8192, 960), False, 960, 7.6, 7.6, TABLE_VII),
    PublishedRun("IMSVD, D = 4080", "v100_npl", (8192, 4080), False, 4080, 8.0, 8.5, TABLE_VII),
    PublishedRun("IMSVD, D = 16320", "v100_npl", (8192, 16320), False, 16320, 10.9, 15.9, TABLE_VII),
)

# How their loaders made views: torchvision on Pillow. Two sources that know nothing of these runs.
PILLOW = ViewCosts(
    # 44.1 core ms of 2 x 224 + 6 x 96 pixels of an image (tools/bench/results/loader/imagenet_sample.json),
    # 2.8 of them decoding 500 x 375 pixels (its README); a core of theirs is taken for one like ours.
    source="viewmill bench loader: torchvision on Pillow, one core",
    image_s=0.0,
    source_pixel_s=2.8e-3 / 187_500,
    view_pixel_s=41.3e-3 / 155_648,
)
FFCV_SSL = ViewCosts(
    # SimCLR with torchvision's loader: 100 epochs of ImageNet in 31.8 h on a node with 8 GPUs = 1,119
    # images/s (FFCV-SSL, facebookresearch/FFCV-SSL; read off the end of its curve), here as a node's rate.
    source="FFCV-SSL: torchvision's loader, a node of 8 GPUs",
    image_s=40 / 1_119,  # core seconds of the 40 cores of a node
    source_pixel_s=0.0,
    view_pixel_s=0.0,
)
LOADERS = {"pillow": PILLOW, "ffcv_ssl": FFCV_SSL}


def compare() -> list[dict[str, Any]]:
    """Every row with its predictions by either loader, and their errors as shares of the published hours."""
    config, base = paper_config()
    rows = []
    for row in ROWS:
        work = with_head(base, row)
        figures: dict[str, Any] = {**row._asdict(), "predicted_gb": memory_gb(row, config, work)}
        for loader, views in LOADERS.items():
            made = prediction(row, config, work, views)
            figures[loader] = {
                "hours": made.hours,
                "bounds": [made.hours * bound / made.step_s for bound in (made.step.least, made.step.most)],
                "error": made.hours / row.hours - 1,
                "binding": made.binding,
                "seconds": made.seconds,
            }
        rows.append(figures)
    return rows


def paper_config() -> tuple[RunConfig, Workload]:
    """The recipe of IMSVD on ImageNet with the published code's precision, AMP, and ten workers a rank."""
    # Their own loaders work on the host's cores, whatever our executors do on a GPU.
    overrides = ["precision=fp16", "views.num_threads=10", "views.executor=host", "device=cuda"]
    config = load_config("imsvd_imagenet", overrides)
    return config, count_workload(config)


def with_head(base: Workload, row: PublishedRun) -> Workload:
    """The backbone's counts with this row's head, and a teacher's forward."""
    head = sum(a * b for a, b in pairwise((2048, *row.head)))
    own = sum(a * b for a, b in pairwise((2048, 8192, 8160)))
    matmul = base.matmul_flops + 2 * 2 * (head - own)  # two views
    return base._replace(
        matmul_flops=matmul,
        weights=base.weights - base.head_weights + head,
        head_weights=head,
        embedding_dim=row.head[-1],
        teacher_conv_flops=base.conv_flops if row.has_teacher else 0.0,
        teacher_matmul_flops=matmul if row.has_teacher else 0.0,
    )


def prediction(row: PublishedRun, config: RunConfig, work: Workload, views: ViewCosts) -> Prediction:
    """By datasheets and cited shares; the loss's matrix whole on every rank, as their codes have it."""
    cluster = load_cluster(row.cluster)
    rates: Measured = from_datasheet(cluster, config).model_copy(update={"views": views})
    # Three products of 2 N D^2, in half precision, that `loss_flops` would share out among the ranks.
    matrix = 6.0 * config.batch_size * row.matrix_dim**2 / rates.matmul_flops_per_s
    rates = rates.model_copy(
        update={"step_overhead_s": matrix, "loss_flops_per_s": 1e30}  # in the overhead instead
    )
    return predict(Plan(config, work, IMAGENET, cluster, rates))


def memory_gb(row: PublishedRun, config: RunConfig, work: Workload) -> float:
    """AMP: weights, gradients and one average in float32, a half copy; half activations; the loss's D x D
    matrices, about four of them in float32; a teacher's weights; the context.
    """
    images = config.batch_size / 32
    activations = images * work.activation_bytes / 2
    states = (3 * FLOAT32 + 2 + (FLOAT32 if row.has_teacher else 0)) * work.weights
    return (activations + states + 4 * FLOAT32 * row.matrix_dim**2) / 1e9 + CONTEXT_GB
