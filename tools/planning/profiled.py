"""The constants of a rank out of a profile: what `viewmill profile --json` printed, for `plan --measured`."""

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.spans import Part
from viewmill.engine.strict import ConfigError
from viewmill.pipelines.executors.executor import device_of_executor, resolved_name
from viewmill.tools.doctor.arithmetic import known_gpu
from viewmill.tools.doctor.collectives import GRADIENT
from viewmill.tools.doctor.costs import AUGMENT, DECODE, LOADER
from viewmill.tools.doctor.diagnosis import COMMUNICATION
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.formulas import Book
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.loss_flops import loss_flops
from viewmill.tools.planning.measured import (
    Measured,
    Origin,
    ViewCosts,
    from_datasheet,
    read_measured,
    read_tree,
)
from viewmill.tools.planning.predict import Plan, compute_seconds, predict
from viewmill.tools.planning.traffic import collectives_of_step
from viewmill.tools.planning.workload import Workload, count_workload

NETWORK = (Part.FORWARD.value, Part.BACKWARD.value, Part.TEACHER.value)
# Of these the plan has formulas of its own, or counts them elsewhere: a checkpoint under failures.
COUNTED = (*NETWORK, Part.LOSS.value, Part.OPTIMISER.value, Part.CHECKPOINT.value, COMMUNICATION)


class Stage(BaseModel):
    """One of a step, by itself."""

    name: str
    alone_s: float = Field(ge=0)


class Diagnosis(BaseModel):
    """Of the rank that the others wait for."""

    rank: int = Field(ge=0)
    images_per_s: float = Field(gt=0)
    stages: list[Stage]
    paths: dict[str, float]


class Rank(BaseModel):
    """What a rank had to itself, and the parts of its training alone."""

    cores: float = Field(gt=0)
    torch_threads: int = Field(ge=1)
    alone: dict[str, dict[str, float]]


class Environment(BaseModel):
    """Which GPUs there were."""

    gpus: list[str]


class Profile(BaseModel):
    """What is read of a profile; the rest of its JSON is left alone."""

    settings: dict[str, Any]
    executor: str
    world_size: int = Field(ge=1)
    device: str
    data: Images
    diagnosis: Diagnosis
    ranks: list[Rank] = Field(min_length=1)
    environment: Environment

    @property
    def rank(self) -> Rank:
        return self.ranks[min(self.diagnosis.rank, len(self.ranks) - 1)]

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage alone, a step."""
        return {stage.name: stage.alone_s for stage in self.diagnosis.stages}

    @property
    def makes_views_on_gpu(self) -> bool:
        return device_of_executor(self.executor, self.device) != "cpu"

    @property
    def shares_cores(self) -> bool:
        """Whether the training's own threads take all processors of a rank, so that views add to its step."""
        return self.device == "cpu" and self.rank.torch_threads >= self.rank.cores

    @property
    def training_s(self) -> float:
        """Of the training alone; what is charged to a step of reading and views stands beside it."""
        return sum(seconds for name, seconds in self.seconds.items() if name not in LOADER)

    @property
    def held_up(self) -> float:
        """How many times as long the training takes beside the making of its views."""
        if self.shares_cores:
            return 1.0  # what the views take of its processors is charged to the views
        return max(1.0, self.diagnosis.paths["training"] / self.training_s)


def measured_for(path: Path, cluster: Cluster, config: RunConfig) -> Measured:
    """The constants of a file: one of `viewmill plan --calibrate`, or a profile.

    Args:
        config: what is planned, with the device of the cluster.

    Raises:
        FileNotFoundError: it is not there. ConfigError: it is neither, or was measured on another device or
            with another network, method or precision; names the field.
    """
    where, tree = f"--measured {path}", read_tree(path)
    if "diagnosis" not in tree:
        found = read_measured(path)
        assert found.of is not None
        check_origin(found.of, cluster, config, where)
        return found
    profile = profile_of(tree, where)
    ran = config_from(profile.settings, where=f"{where}: settings")
    ran = ran.model_copy(update={"device": profile.device})
    check_origin(origin_of(profile, ran), cluster, config, where)
    return constants_of(profile, ran, cluster)


def profile_of(tree: dict[str, Any], where: str) -> Profile:
    """Raises ConfigError: a field is missing or no such value; names it."""
    try:
        found = Profile.model_validate(tree)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"{where}: {lines}; run viewmill profile --json again") from None
    for name in (Part.FORWARD.value, Part.BACKWARD.value, Part.OPTIMISER.value):
        if not found.seconds.get(name):
            raise ConfigError(f"{where}: diagnosis.stages: no {name}; run viewmill profile --json again")
    if found.device == "cuda" and not found.environment.gpus:
        raise ConfigError(f"{where}: environment.gpus: empty; run viewmill profile --json again")
    if not {"training", "making"} <= set(found.diagnosis.paths):
        raise ConfigError(f"{where}: diagnosis.paths: no training or making; run viewmill profile again")
    return found


def origin_of(profile: Profile, ran: RunConfig) -> Origin:
    """What the profile is of."""
    on_cpu = profile.device == "cpu"
    return Origin(
        device="cpu" if on_cpu else profile.environment.gpus[0],
        precision=ran.precision,
        backbone=ran.model.backbone,
        compiled=ran.model.compile,
        method=ran.method.name,
        executor=None if profile.makes_views_on_gpu else profile.executor,
        cores=profile.rank.cores if on_cpu else 1.0,
        torch_threads=profile.rank.torch_threads if on_cpu else None,
    )


def check_origin(of: Origin, cluster: Cluster, config: RunConfig, where: str) -> None:
    """Raises ConfigError: what was measured is not what is planned; names the field."""
    here = "cpu" if cluster.gpu is None else cluster.gpu.name
    if not is_same_device(of.device, here):
        raise ConfigError(
            f"{where}: device: measured on {of.device}, --cluster {cluster.name} has {here}; choose a "
            "cluster of that device (--set gpu.name=... names another one), or measure on this one"
        )
    rows: list[tuple[str, object, object]] = [
        ("precision", of.precision, config.precision),
        ("model.backbone", of.backbone, config.model.backbone),
        ("model.compile", of.compiled, config.model.compile),
        ("method.name", of.method, config.method.name),
    ]
    if of.executor is not None:
        here = resolved_name(config.views.executor, config.device)
        rows.append(("views.executor", of.executor, here))
    if of.torch_threads is not None and config.torch_threads is not None:
        rows.append(("torch_threads", of.torch_threads, config.torch_threads))
    for field, there, asked in rows:
        if there != asked:
            raise ConfigError(
                f"{where}: {field}: measured with {there}, planned is {asked}; plan with {field}={there}, or "
                "measure again with what is planned"
            )
    share = max(1.0, cluster.cpu_threads / cluster.local_ranks)
    if of.device == "cpu" and of.cores > share:
        raise ConfigError(
            f"{where}: cores: a rank had {of.cores:g} processors, one of --cluster {cluster.name} has "
            f"{share:g}; --set ranks_per_node=... or cpu_threads=..., or measure as many ranks"
        )


def is_same_device(there: str, here: str) -> bool:
    """A GPU's name as CUDA gives it beside a cluster's: one model of the known datasheets, else one
    name in the other.
    """
    if "cpu" in (there, here):
        return there == here
    models = known_gpu(there), known_gpu(here)
    if models == (None, None):
        return here.casefold() in there.casefold() or there.casefold() in here.casefold()
    return models[0] == models[1]


def constants_of(profile: Profile, ran: RunConfig, cluster: Cluster) -> Measured:
    """What a rank of the profile reached, stage by stage; `source` tells what it could not say.

    One profile is one point. Convolutions and products stand in one time, so both speeds are the datasheet's
    times one factor. Of the loss it cannot tell what grows with its products: their speed is the datasheet's
    unless the profile was faster, and the rest is a step's overhead. As `step_of` has it, a step is then that
    of the profile's own stages, run beside each other.

    Args:
        ran: the profile's settings, with its device.
    """
    seconds, held_up = profile.seconds, profile.held_up
    work, base = count_workload(ran), from_datasheet(cluster, ran)
    unheld = {"weights_per_s": math.inf, "activation_bytes_per_s": None}
    bare = Plan(ran, work, profile.data, cluster_of(profile, cluster), base.model_copy(update=unheld))
    network_s = held_up * sum(seconds.get(name, 0.0) for name in NETWORK)
    factor = compute_seconds(bare, Book()) / network_s
    flops, loss_s = products_of(ran, work, profile, cluster), held_up * seconds.get(Part.LOSS.value, 0.0)
    loss_per_s = max(base.loss_flops_per_s, flops / loss_s if loss_s else 0.0)
    moved = work.weights / (profile.world_size if ran.zero.stage else 1)
    # Ranks that agree with nobody but themselves take a little time too.
    counted = COUNTED if profile.world_size > 1 else tuple(set(COUNTED) - {COMMUNICATION})
    rest_s = sum(s for name, s in seconds.items() if name not in (*LOADER, *counted))
    sent = network_of(profile, ran, work)
    rates = base.model_copy(
        update={
            "of": origin_of(profile, ran),
            "shares_cores": profile.shares_cores,
            "conv_flops_per_s": factor * base.conv_flops_per_s,
            "matmul_flops_per_s": factor * base.matmul_flops_per_s,
            "loss_flops_per_s": loss_per_s,
            "activation_bytes_per_s": None,
            "weights_per_s": moved / (held_up * seconds[Part.OPTIMISER.value]),
            "step_overhead_s": held_up * rest_s + max(0.0, loss_s - flops / loss_per_s),
            "views": views_of(profile, ran, work, base.views),
            **sent,
        }
    )
    told = source_of(profile, ran, has_loss=loss_per_s > base.loss_flops_per_s, has_network=bool(sent))
    made = predict(bare._replace(rates=rates))
    again = f"{profile.diagnosis.images_per_s:,.4g} images/s there, {made.images_per_s:,.4g} by these"
    return rates.model_copy(update={"source": f"{told}; {again}"})


def cluster_of(profile: Profile, cluster: Cluster) -> Cluster:
    """The ranks of the profile as one node of the cluster."""
    ranks = profile.world_size
    if cluster.gpu is not None:
        return cluster.model_copy(update={"nodes": 1, "gpus_per_node": ranks})
    cores = max(ranks, math.ceil(profile.rank.cores * ranks))
    return cluster.model_copy(
        update={"nodes": 1, "ranks_per_node": ranks, "cpu_threads": cores, "physical_cores": cores}
    )


def products_of(ran: RunConfig, work: Workload, profile: Profile, cluster: Cluster) -> float:
    triton = cluster.gpu is not None and cluster.gpu.triton
    return loss_flops(ran, work, profile.world_size, triton=triton)


def views_of(profile: Profile, ran: RunConfig, work: Workload, stored: ViewCosts) -> ViewCosts:
    """Seconds of a thread that makes views, beside the training; reading is done by threads of its own.

    Where views share the training's processors it is what they add to the step. Views that a GPU makes are
    not of the host's cores: theirs stay as they are without a profile.
    """
    if profile.makes_views_on_gpu:
        return stored
    paths = profile.diagnosis.paths
    if profile.shares_cores:
        step_s = max(0.0, max(paths.values()) - profile.training_s)
    else:
        step_s = paths["making"] * min(ran.views.num_threads, profile.rank.cores)
    image_s = step_s * profile.world_size / ran.batch_size
    decode_s, rest_s = (profile.seconds.get(name, 0.0) for name in (DECODE, AUGMENT))
    decoding = decode_s / (decode_s + rest_s) if decode_s else 0.0
    return ViewCosts(
        source=f"viewmill profile: {profile.executor}, views.num_threads={ran.views.num_threads}",
        image_s=0.0,
        source_pixel_s=decoding * image_s / profile.data.mean_pixels,
        view_pixel_s=(1 - decoding) * image_s / work.view_pixels,
    )


def network_of(profile: Profile, ran: RunConfig, work: Workload) -> dict[str, float]:
    """What ranks on the cores of one machine send, and how soon: nothing else is between them.

    Of GPUs it is the cluster's: what those of one node reach says nothing of the network between nodes.
    """
    if profile.device != "cpu" or profile.world_size == 1:
        return {}
    found = collectives_of_step(ran, work, profile.world_size)
    large = [one for one in found if one.what in ("gradients", "weights")]
    small = [one for one in found if one not in large]
    large_s = profile.rank.alone.get("", {}).get(GRADIENT, 0.0)
    if not large_s:
        return {}
    bytes_per_s = sum(one.sent(profile.world_size) for one in large) / large_s
    small_s = profile.seconds.get(COMMUNICATION, 0.0) - large_s
    small_s -= sum(one.sent(profile.world_size) for one in small) / bytes_per_s
    latency_s = max(0.0, small_s) / max(1, sum(one.times for one in small))
    return {"rank_gb_s": bytes_per_s / 1e9, "latency_s": latency_s}


def source_of(profile: Profile, ran: RunConfig, *, has_loss: bool, has_network: bool) -> str:
    """What was profiled, which constants are from it, and which are as they would be without it."""
    of = origin_of(profile, ran)
    what = f"{profile.world_size} x {of.device}, {of.backbone}, {of.method}, {of.precision}"
    measured = ["network (convolutions and products by one factor)", "optimiser", "overhead of a step"]
    kept = ["BatchNorm over more ranks"]
    has_views = not profile.makes_views_on_gpu
    for name, is_measured in (("loss", has_loss), ("views", has_views), ("collectives", has_network)):
        (measured if is_measured else kept).append(name)
    return f"viewmill profile of {what}: {', '.join(measured)}; as without it: {', '.join(kept)}"
