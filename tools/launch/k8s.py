"""Kubernetes: a PyTorchJob of Kubeflow's training operator, one pod of torchrun a node."""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml
from pydantic import Field, field_validator
from viewmill.engine.strict import StrictModel
from viewmill.tools.launch.job import TRAIN_MODULE, Job
from viewmill.tools.launch.rank_variables import in_pods
from viewmill.tools.launch.torchrun import SIGNALS
from viewmill.tools.launch.written import Command, Written, launch_folder, needs

MANIFEST = "pytorchjob.yaml"
API_VERSION, KIND = "kubeflow.org/v1", "PyTorchJob"
CONTAINER, PORT_NAME = (
    "pytorch",
    "pytorchjob-port",
)  # the operator knows its container and port by these names
MAX_NAME = 48  # characters; the operator adds -worker-N, and a label has 63
GRACE_SECONDS = 10  # that the agent has to end in, once the ranks have saved or were killed
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]i?|Ki)?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Volume(NamedTuple):
    """A persistent volume claim and where it is mounted."""

    claim: str
    path: str
    is_read_only: bool


class Options(StrictModel):
    """What the pods are made of; quantities as Kubernetes writes them: 500m, 16, 64Gi."""

    image: str = Field(min_length=1)  # it has viewmill installed
    volumes: tuple[str, ...] = Field(default=(), strict=False)  # CLAIM:/PATH, or CLAIM:/PATH:ro
    namespace: str | None = None
    gpus: str | None = Field(default=None, pattern=r"^[1-9]\d*$")  # of a pod
    gpu_resource: str = "nvidia.com/gpu"
    cpus: str | None = None
    mem: str | None = None
    shm: str = "16Gi"  # /dev/shm, by which ranks and workers of a pod share tensors; it counts as memory
    pull_secret: str | None = None
    node_selector: tuple[str, ...] = Field(default=(), strict=False)  # LABEL=VALUE
    queue: str | None = None  # of Kueue
    min_nodes: int | None = Field(
        default=None, ge=1
    )  # fewer pods than nodes may go on; None: all must be there
    save_seconds: int = Field(default=300, ge=1)  # that a pod which is to go has for its checkpoint
    backoff_limit: int = Field(default=10, ge=0)  # failures of pods before the job has failed
    folder: str = "kubernetes"  # on this machine, for the manifest; the run's own is on a volume
    keep_seconds: int | None = Field(
        default=None, ge=0
    )  # that the job is kept when it has ended; None: for good

    @field_validator("cpus", "mem", "shm")
    @classmethod
    def is_quantity(cls, value: str | None) -> str | None:
        if value is not None and not _QUANTITY.fullmatch(value):
            raise ValueError(f"expected a quantity such as 500m, 16 or 64Gi, got {value!r}")
        return value

    @field_validator("volumes")
    @classmethod
    def are_mounts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            parse_volume(value)
        return values

    @field_validator("node_selector")
    @classmethod
    def are_labels(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not all(value.partition("=")):
                raise ValueError(f"expected LABEL=VALUE, got {value!r}")
        return values


def parse_volume(text: str) -> Volume:
    """CLAIM:/PATH or CLAIM:/PATH:ro.

    Raises:
        ValueError: it is neither.
    """
    claim, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not _LABEL.fullmatch(claim) or not path.startswith("/") or mode not in ("", "ro", "rw"):
        raise ValueError(f"expected CLAIM:/PATH or CLAIM:/PATH:ro, got {text!r}")
    return Volume(claim, path.rstrip("/") or "/", mode == "ro")


def write(job: Job, options: Options) -> Written:
    """The manifest, and the kubectl that applies it.

    Raises:
        ValueError: data set, judge set, run folder or recipe lie on no volume of the pods.
    """
    check_paths(job, [parse_volume(text) for text in options.volumes])
    if options.min_nodes is not None and options.min_nodes > job.nodes:
        raise ValueError(f"min_nodes={options.min_nodes} is more than the {job.nodes} nodes of the job")
    head = (
        f"# {job.train_arguments()[0]!r} on {job.nodes} x {job.ranks_per_node} ranks; written by viewmill "
        "launch, to be read and edited.\n"
    )
    text = head + yaml.safe_dump(manifest(job, options), sort_keys=False, width=110)
    folder = f"{options.folder}/{name_of(job.out)}"
    apply = Command(["kubectl", "apply", "-f", f"{launch_folder(folder)}/{MANIFEST}"])
    given = in_pods(job, variables(job, options))
    checks = [needs("kubectl")]
    return Written({MANIFEST: text}, [apply], checks, is_over=False, folder=folder, variables=given)


def check_paths(job: Job, volumes: list[Volume]) -> None:
    """Raises ValueError where a path of the job would be inside the container, and lost with it."""
    places = {"--data": job.data, "--out": job.out}
    if job.judged_on is not None:
        places["--judge"] = job.judged_on
    if "/" in job.recipe:
        places["the recipe"] = job.recipe
    for name, path in places.items():
        if _URL.match(path) and name != "--out":
            continue
        held = [volume for volume in volumes if PurePosixPath(path).is_relative_to(volume.path)]
        if not held:
            mounts = ", ".join(volume.path for volume in volumes) or "none"
            raise ValueError(
                f"{name} {path}: lies on no volume of the pods (mounted: {mounts}); add "
                "--volume CLAIM:/PATH with a path above it"
            )
        deepest = max(held, key=lambda volume: len(volume.path))
        if name == "--out" and deepest.is_read_only:
            raise ValueError(f"--out {path}: {deepest.path} is mounted read-only; leave out its :ro")


def manifest(job: Job, options: Options) -> dict[str, Any]:
    """The PyTorchJob as a tree.

    Every replica is a Worker under an elastic policy, whatever the number: the operator then gives torchrun
    the rendezvous (PET_RDZV_ENDPOINT: the first worker) and the pods need no roles.
    """
    metadata: dict[str, Any] = {"name": name_of(job.out)}
    if options.namespace is not None:
        metadata["namespace"] = options.namespace
    metadata["labels"] = {"app.kubernetes.io/name": "viewmill"}
    if options.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = options.queue
    run_policy: dict[str, Any] = {"cleanPodPolicy": "Running", "backoffLimit": options.backoff_limit}
    if options.keep_seconds is not None:
        run_policy["ttlSecondsAfterFinished"] = options.keep_seconds
    worker = {
        "replicas": job.nodes,
        "restartPolicy": "OnFailure",
        "template": {"metadata": {"labels": dict(metadata["labels"])}, "spec": pod(job, options)},
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": {
            "nprocPerNode": str(job.ranks_per_node),
            "elasticPolicy": {
                "rdzvBackend": "c10d",
                "minReplicas": options.min_nodes or job.nodes,
                "maxReplicas": job.nodes,
                "maxRestarts": job.max_restarts,
            },
            "runPolicy": run_policy,
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def pod(job: Job, options: Options) -> dict[str, Any]:
    """One node: its container, volumes, and the time it has to save."""
    volumes = [parse_volume(text) for text in options.volumes]
    claims = list(dict.fromkeys(volume.claim for volume in volumes))
    memory = name_of_memory(volumes)
    spec: dict[str, Any] = {
        # After SIGTERM. torchrun, which is the container's first process, passes it on to the ranks.
        "terminationGracePeriodSeconds": options.save_seconds + GRACE_SECONDS,
        "containers": [container(job, options, volumes)],
        "volumes": [
            {"name": memory, "emptyDir": {"medium": "Memory", "sizeLimit": options.shm}},
            *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
        ],
    }
    if options.pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": options.pull_secret}]
    if options.node_selector:
        spec["nodeSelector"] = dict(text.split("=", 1) for text in options.node_selector)
    return spec


def name_of_memory(volumes: list[Volume]) -> str:
    """What the volume of /dev/shm is called: other than every claim, whose volumes have the claims' names."""
    claims = {volume.claim for volume in volumes}
    return next(name for name in map("shm{}".format, ["", *range(len(claims))]) if name not in claims)


def container(job: Job, options: Options, volumes: list[Volume]) -> dict[str, Any]:
    """torchrun with the training: the same command for the first start and for all others."""
    resources = {
        options.gpu_resource: options.gpus,
        "cpu": options.cpus,
        "memory": options.mem,
    }
    asked = {name: value for name, value in resources.items() if value is not None}
    mounts: list[dict[str, Any]] = [{"name": name_of_memory(volumes), "mountPath": "/dev/shm"}]
    for volume in volumes:
        mode = {"readOnly": True} if volume.is_read_only else {}
        mounts.append({"name": volume.claim, "mountPath": volume.path, **mode})
    return {
        "name": CONTAINER,
        "image": options.image,
        "command": command(job),
        "env": [{"name": name, "value": value} for name, value in variables(job, options).items()],
        "ports": [{"name": PORT_NAME, "containerPort": job.port}],
        "resources": {"requests": asked, "limits": dict(asked)},
        "volumeMounts": mounts,
    }


def variables(job: Job, options: Options) -> dict[str, str]:
    """What the launch gives the ranks: the job's own come last."""
    return {
        "VIEWMILL_MAY_BEGIN": "1",  # with --resume: a pod cannot know whether it is the first
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(options.save_seconds),
        # Else an agent that stays keeps the store of the last meeting, and a pod's successor waits in vain.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        **job.env,
    }


def command(job: Job) -> list[str]:
    """No shell: signals reach torchrun. Where the pods meet, it reads from the operator's variables."""
    words = [job.python, "-m", "torch.distributed.run", f"--nproc-per-node={job.ranks_per_node}"]
    words += ["--signals-to-handle", SIGNALS, "-m", TRAIN_MODULE]
    arguments = job.train_arguments()
    words += arguments if "--resume" in arguments else [*arguments, "--resume"]
    # Kubernetes replaces $(NAME) by a variable, and $$ by $.
    return [word.replace("$", "$$") for word in words]


def name_of(out: str) -> str:
    """A name for the job that Kubernetes takes: the run folder's, where that is one already."""
    path = PurePosixPath(out)
    plain = re.sub(r"[^a-z0-9-]+", "-", path.name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"run-{plain}".rstrip("-")
    if plain == path.name and len(plain) <= MAX_NAME:
        return plain
    return f"{plain[: MAX_NAME - 9].rstrip('-')}-{hashlib.sha256(out.encode()).hexdigest()[:8]}"
