"""A cluster: nodes, GPUs, cores, network, storage and price, from a preset or a YAML file."""

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from viewmill.engine.recipe_file import apply_override, read_mapping
from viewmill.engine.strict import ConfigError, StrictModel

Precision = Literal["fp32", "bf16", "fp16"]
Positive = Annotated[float, Field(gt=0)]


class Gpu(StrictModel):
    """One accelerator: what its datasheet says, and which share of the peak training is seen to reach."""

    name: str
    memory_gb: float = Field(gt=0)
    peak_tflops: dict[Precision, Positive]  # dense; a precision that is missing is one that it lacks
    conv_fraction: dict[Precision, float]  # of the peak, in training a convolutional network
    matmul_fraction: dict[Precision, float]  # of the peak, in training a transformer, and in the loss
    memory_gb_s: float = Field(gt=0)
    triton: bool = True  # Triton's kernels run: compute capability 8.0 or more
    efficiency_source: str
    # JPEGs a second of which DALI makes one view of 224 pixels; None: views on it are not modelled.
    dali_images_per_s: float | None = Field(default=None, gt=0)
    dali_source: str = "of the cluster's own file"

    @model_validator(mode="after")
    def every_peak_has_its_fractions(self) -> "Gpu":
        if not self.peak_tflops:
            raise ValueError("peak_tflops needs one of fp32, bf16, fp16 at least")
        for name in ("conv_fraction", "matmul_fraction"):
            shares = getattr(self, name)
            if set(shares) != set(self.peak_tflops) or not all(0 < share <= 1 for share in shares.values()):
                raise ValueError(
                    f"{name} needs a share in (0, 1] for each of {', '.join(self.peak_tflops)}, got {shares}"
                )
        return self


class Reliability(StrictModel):
    """How often things go wrong, and what that costs."""

    # Failures that end the job, a node and day. 6.50 per 1,000 node-days: Kokolis et al., Revisiting
    # Reliability in Large-Scale Machine Learning Research Clusters (HPCA 2025), cluster RSC-1, A100.
    failures_per_node_day: float = Field(default=0.0065, ge=0)
    restart_s: float = Field(default=600.0, ge=0)  # until a new job trains again; assumption
    # Slow nodes: Llama 3 (arXiv 2407.21783) tells of them and gives no rate; the three are assumptions.
    slow_per_node_day: float = Field(default=0.001, ge=0)
    slow_factor: float = Field(default=1.2, ge=1)  # how much longer a step of a slow node takes
    slow_hours: float = Field(default=4.0, gt=0)  # until it is found and left out
    # Storage that stands still for all at once; assumptions.
    hiccups_per_day: float = Field(default=1.0, ge=0)
    hiccup_s: float = Field(default=60.0, gt=0)


class Cluster(StrictModel):
    """Nodes that are alike. Bandwidths are of one direction, GB/s (1e9 bytes), and of a node."""

    name: str
    source: str  # where the figures come from, and which are assumptions
    nodes: int = Field(ge=1)
    gpus_per_node: int = Field(ge=0)
    ranks_per_node: int | None = Field(default=None, ge=1)  # without GPUs; with them it is one each
    cpu_threads: int = Field(ge=1)
    physical_cores: int = Field(ge=1)
    host_memory_gb: float = Field(gt=0)
    nic_gb_s: float = Field(gt=0)  # all ports of a node together
    storage_gb_s: float = Field(gt=0)  # reading, as one node gets it
    storage_total_gb_s: float | None = Field(default=None, gt=0)  # of shared storage, all nodes together
    link_gb_s: float = Field(gt=0)  # of one GPU to the others of its node
    # What of the peaks of network cards and links collectives reach; assumption.
    network_fraction: float = Field(default=0.8, gt=0, le=1)
    # Of one small collective: within a node, and more for each doubling of nodes; assumptions, NCCL's order.
    latency_us: float = Field(default=20.0, ge=0)
    latency_per_doubling_us: float = Field(default=10.0, ge=0)
    price_per_node_hour: float | None = Field(default=None, ge=0)  # any currency
    gpu: Gpu | None
    reliability: Reliability = Reliability()

    @model_validator(mode="after")
    def ranks_are_known(self) -> "Cluster":
        if (self.gpu is None) != (self.gpus_per_node == 0):
            raise ValueError("gpu and gpus_per_node: give both, or gpu: null and gpus_per_node: 0")
        if (self.ranks_per_node is None) == (self.gpu is None):
            raise ValueError("ranks_per_node is for nodes without GPUs, and needed there")
        if self.physical_cores > self.cpu_threads:
            raise ValueError(
                f"physical_cores={self.physical_cores} is more than cpu_threads={self.cpu_threads}, of which "
                "every core has one at least"
            )
        return self

    @property
    def local_ranks(self) -> int:
        return self.ranks_per_node or self.gpus_per_node

    @property
    def world_size(self) -> int:
        return self.nodes * self.local_ranks

    def with_nodes(self, nodes: int) -> "Cluster":
        return self.model_copy(update={"nodes": nodes})


def presets() -> dict[str, Path]:
    """The clusters that come with Viewmill, by name."""
    folder = Path(str(resources.files("viewmill.tools.planning.clusters")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_cluster(name: str, overrides: list[str] | None = None) -> Cluster:
    """A preset's name or a YAML file, with `key=value` on top.

    Raises:
        FileNotFoundError: a file that is not there.
        ConfigError: there is no such preset, or a key or value is wrong; names the nearest.
    """
    path = Path(name) if Path(name).is_file() else presets().get(name)
    if path is None and is_path(name):
        raise FileNotFoundError(
            f"--cluster {name}: no such file; give a YAML file that is there, or a preset"
        )
    if path is None:
        near = difflib.get_close_matches(name, presets(), n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"--cluster {name}: no such preset or file; the nearest preset is {near}; "
            f"there are {', '.join(presets())}"
        )
    tree = read_mapping(path)
    for override in overrides or []:
        apply_override(tree, override)
    try:
        return Cluster.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"--cluster {name}: " + "; ".join(map(told, error.errors()))) from None


def is_path(name: str) -> bool:
    """Whether it is meant as a file: it has a folder or YAML's ending."""
    return Path(name).name != name or Path(name).suffix.lower() in (".yaml", ".yml")


def told(error: ErrorDetails) -> str:
    """One of pydantic's errors as a line; a key that is none with the nearest that is one."""
    dotted = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, known_keys(), n=1, cutoff=0.0)[0]
        return f"{dotted} is no setting; the nearest is {near}"
    if error["type"] == "missing":
        return f"{dotted} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message}" if dotted else message


def known_keys() -> list[str]:
    """Dotted names of all settings of a cluster."""
    groups: dict[str, type[StrictModel]] = {"gpu": Gpu, "reliability": Reliability}
    inner = [f"{group}.{name}" for group, model in groups.items() for name in model.model_fields]
    return [*Cluster.model_fields, *inner]
