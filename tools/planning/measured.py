"""How fast ranks and cores are: from a datasheet with shares of its peaks, or measured on a machine."""

import json
from importlib import resources
from pathlib import Path

from pydantic import Field, ValidationError
from viewmill.engine.config import RunConfig
from viewmill.engine.recipe_file import read_mapping
from viewmill.engine.strict import ConfigError, StrictModel
from viewmill.tools.planning.cluster import Cluster, Precision
from viewmill.tools.planning.view_makers import executor_of, is_on_device, over_host


class ViewCosts(StrictModel):
    """Core seconds of making the views of an image; threads divide them."""

    source: str
    image_s: float = Field(ge=0)  # reading, hashing, planning
    source_pixel_s: float = Field(ge=0)  # decoding, a pixel of the image on disk
    view_pixel_s: float = Field(ge=0)  # crop, colour, blur and layout, a pixel of all views together
    # What two threads of one core give over one; FFCV's published curve shows no gain.
    smt_gain: float = Field(default=1.0, ge=1)

    def of_image(self, source_pixels: float, view_pixels: float) -> float:
        return self.image_s + self.source_pixel_s * source_pixels + self.view_pixel_s * view_pixels


class Measured(StrictModel):
    """The constants of one rank; a profile file, `--measured FILE`, is one of these as JSON."""

    source: str  # what was measured where, or which datasheet
    # A rank's own cores make its views too, so that they add to its step instead of overlapping it.
    shares_cores: bool
    conv_flops_per_s: float = Field(gt=0)  # forward and backward, reached
    matmul_flops_per_s: float = Field(gt=0)  # of linear layers and attention
    loss_flops_per_s: float = Field(gt=0)  # of the products of the loss
    # What is no product: normalisation, activations; of bytes that autograd keeps. None where the products'
    # speed was taken of whole trainings and has it in it already.
    activation_bytes_per_s: float | None = Field(default=None, gt=0)
    weights_per_s: float = Field(gt=0)  # weights that the optimiser moves
    # What a BatchNorm over several ranks takes more than on one, forward and backward, of itself and of each
    # number, without what it sends; of a GPU, whose kernels fuse it, nothing.
    global_norm_call_s: float = Field(default=0.0, ge=0)
    global_norm_s: float = Field(default=0.0, ge=0)
    step_overhead_s: float = Field(ge=0)  # of a step, whatever is in it
    image_overhead_s: float = Field(default=0.0, ge=0)
    rank_gb_s: float | None = Field(default=None, gt=0)  # that a rank sends; None: as the cluster says
    latency_s: float | None = Field(default=None, ge=0)  # of a small collective; None: as the cluster says
    views: ViewCosts


def read_measured(path: Path) -> Measured:
    """A file that `viewmill plan --calibrate` wrote.

    Raises:
        FileNotFoundError: it is not there. ConfigError: it is no such JSON; names the field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--measured {path}: no such file; make one with: viewmill plan --calibrate")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Measured.model_validate(tree.get("measured", tree) if isinstance(tree, dict) else tree)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"--measured {path}: {lines}") from None
    except ValueError as error:
        raise ConfigError(f"--measured {path}: not JSON: {error}") from None


def from_datasheet(cluster: Cluster, config: RunConfig) -> Measured:
    """The constants of a rank by its datasheet and the shares of its peaks that trainings have reached.

    A GPU without the precision is refused. Of a node without GPUs a core's 30 GFLOP/s is an assumption.

    Raises:
        ConfigError: the GPU has no such precision.
    """
    gpu, views, precision = cluster.gpu, views_on_host(config), config.precision
    if gpu is None:
        return Measured(
            source="assumption: 30 GFLOP/s and 2 GB/s of a core; measure: viewmill plan --calibrate",
            shares_cores=True,
            conv_flops_per_s=30e9,
            matmul_flops_per_s=30e9,
            loss_flops_per_s=30e9,
            activation_bytes_per_s=2e9,
            weights_per_s=2e8,
            step_overhead_s=0.0,
            views=views,
        )
    if precision not in gpu.peak_tflops:
        raise ConfigError(
            f"precision={precision}: {gpu.name} has {', '.join(gpu.peak_tflops)}; choose one of them"
        )
    peak = 1e12 * gpu.peak_tflops[precision]
    # The loss's products run in float32 but where Triton takes them in the network's own type.
    loss_type: Precision = precision if config.loss_precision == "model" else "fp32"
    loss_peak = 1e12 * gpu.peak_tflops[loss_type] * gpu.matmul_fraction[loss_type]
    return Measured(
        source=gpu.efficiency_source,
        shares_cores=False,
        conv_flops_per_s=peak * gpu.conv_fraction[precision],
        matmul_flops_per_s=peak * gpu.matmul_fraction[precision],
        loss_flops_per_s=loss_peak,
        # AdamW reads and writes 28 bytes a weight (weight, gradient, two averages) at the memory's speed.
        weights_per_s=1e9 * gpu.memory_gb_s / 28,
        step_overhead_s=0.0,
        views=views,
    )


def views_on_host(config: RunConfig) -> ViewCosts:
    """Of the run's executor on the host's cores; where the device makes the views, of `host` in its place."""
    views, factor = host_views(), 1.0 if is_on_device(config) else over_host(config)
    if factor == 1.0:
        return views
    costs = {name: factor * getattr(views, name) for name in ("image_s", "source_pixel_s", "view_pixel_s")}
    source = f"{views.source}, times {factor:g} for {executor_of(config)}"
    return views.model_copy(update={**costs, "source": source})


def host_views() -> ViewCosts:
    """Of the `host` executor, by the figures that `viewmill bench loader` has stored, one thread."""
    stored = resources.files("viewmill.tools.planning").joinpath("host_views.yaml")
    return ViewCosts.model_validate(read_mapping(Path(str(stored))))
