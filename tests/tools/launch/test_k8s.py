"""The PyTorchJob, held against the models of Kubeflow's and Kubernetes' own clients."""

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.k8s import MANIFEST, Options, name_of, parse_volume, write

kubeflow = pytest.importorskip("kubeflow.training.models", reason="pip install 'viewmill[dev]'")
kubernetes = pytest.importorskip("kubernetes.client.models", reason="pip install 'viewmill[dev]'")

PLAIN = {"str": str, "int": int, "bool": bool, "float": float}
VOLUMES = ["datasets:/data:ro", "runs:/runs"]
FULL: dict[str, Any] = {
    "image": "registry.example/viewmill:1",
    "volumes": VOLUMES,
    "namespace": "vision",
    "gpus": "8",
    "cpus": "96",
    "mem": "900Gi",
    "pull_secret": "registry",
    "node_selector": ["gpu=h100"],
    "queue": "team",
    "min_nodes": 2,
    "keep_seconds": 86400,
}


def job(**changes: Any) -> Job:
    paths = {"python": "python", "recipe": "hydes_imagenet", "data": "/data/imagenet", "out": "/runs/first"}
    return Job(**{**paths, "nodes": 4, "ranks_per_node": 8, "max_restarts": 3, **changes})


def manifest(job: Job, **options: Any) -> Any:
    return yaml.safe_load(write(job, Options(**options)).files[MANIFEST])


def faults(tree: Any, kind: str, where: str = "") -> list[str]:
    """Where a tree is not of a kind, as the clients' models declare it: unknown keys and wrong values."""
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(tree, list):
            return [f"{where}: no list"]
        return [fault for n, item in enumerate(tree) for fault in faults(item, found[1], f"{where}[{n}]")]
    if found := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return [fault for key, item in tree.items() for fault in faults(item, found[1], f"{where}.{key}")]
    if kind in PLAIN:
        return [] if type(tree) is PLAIN[kind] else [f"{where}: {tree!r} is no {kind}"]
    model = getattr(kubeflow, kind, None) or getattr(kubernetes, kind)
    kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    if not isinstance(tree, dict):
        return [f"{where}: no {kind}"]
    unknown = [f"{where}.{key}: {model.__name__} has no such key" for key in tree if key not in kinds]
    known = {key: item for key, item in tree.items() if key in kinds}
    return unknown + [
        fault for key, item in known.items() for fault in faults(item, kinds[key], f"{where}.{key}")
    ]


@pytest.mark.parametrize("options", [{"image": "viewmill", "volumes": VOLUMES}, FULL], ids=["least", "most"])
def test_the_manifest_is_what_the_clients_declare(options: dict[str, Any]) -> None:
    assert faults(manifest(job(), **options), "KubeflowOrgV1PyTorchJob") == []


def test_the_models_find_what_is_wrong() -> None:
    tree = manifest(job(), **FULL)
    tree["spec"]["elasticPolicy"]["maxReplicas"] = "4"
    tree["spec"]["runPolicy"]["backofLimit"] = 3
    pod = tree["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    pod["containers"][0]["volumeMounts"][0]["path"] = "/x"
    assert faults(tree, "KubeflowOrgV1PyTorchJob") == [
        ".spec.elasticPolicy.maxReplicas: '4' is no int",
        ".spec.runPolicy.backofLimit: KubeflowOrgV1RunPolicy has no such key",
        ".spec.pytorchReplicaSpecs.Worker.template.spec.containers[0].volumeMounts[0].path: "
        "V1VolumeMount has no such key",
    ]


def test_the_manifest_says_what_was_asked_for() -> None:
    tree = manifest(job(), **FULL)
    spec = tree["spec"]
    assert (spec["nprocPerNode"], spec["runPolicy"]["ttlSecondsAfterFinished"]) == ("8", 86400)
    elastic = {"rdzvBackend": "c10d", "minReplicas": 2, "maxReplicas": 4, "maxRestarts": 3}
    assert spec["elasticPolicy"] == elastic
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert (worker["replicas"], container["name"]) == (4, "pytorch")
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "cpu": "96", "memory": "900Gi"}
    mounted = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounted == {"/dev/shm": False, "/data": True, "/runs": False}
    assert {volume["name"] for volume in pod["volumes"]} == {"shm", "datasets", "runs"}


def test_a_claim_may_be_called_as_the_memory_is() -> None:
    tree = manifest(job(), image="i", volumes=["shm:/data", "shm0:/more", "runs:/runs"])
    pod = tree["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["shm1", "shm", "shm0", "runs"]
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {"/dev/shm": "shm1", "/data": "shm", "/more": "shm0", "/runs": "runs"}


def test_a_pod_has_the_time_of_a_checkpoint_and_torchrun_leaves_it_to_the_ranks() -> None:
    pod = manifest(job(), image="i", volumes=VOLUMES, save_seconds=900)["spec"]["pytorchReplicaSpecs"][
        "Worker"
    ]
    spec = pod["template"]["spec"]
    variables = {line["name"]: line["value"] for line in spec["containers"][0]["env"]}
    assert variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"  # see tests/drills/cluster/test_pods.py
    assert int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) == 900 < spec["terminationGracePeriodSeconds"]


def test_every_start_resumes_and_words_stay_as_they_are() -> None:
    tree = manifest(job(overrides=("note=$(HOME) it's",), max_restarts=0), image="i", volumes=VOLUMES)
    container = tree["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    words = container["command"]
    # Kubernetes replaces $(HOME), and makes $ of $$.
    assert words[-2:] == ["note=$$(HOME) it's", "--resume"]
    assert {"name": "VIEWMILL_MAY_BEGIN", "value": "1"} in container["env"]
    assert words[:4] == ["python", "-m", "torch.distributed.run", "--nproc-per-node=8"]


@pytest.mark.parametrize(
    ("changes", "volumes", "told"),
    [
        ({"out": "/home/me/run"}, VOLUMES, "--out /home/me/run: lies on no volume"),
        (
            {"data": "/dat/imagenet"},
            VOLUMES,
            r"--data /dat/imagenet: lies on no volume of the pods \(mounted: ",
        ),
        ({"recipe": "/home/me/r.yaml"}, VOLUMES, "the recipe /home/me/r.yaml: lies on no volume"),
        ({"judged_on": "/nowhere/test"}, VOLUMES, "--judge /nowhere/test: lies on no volume"),
        ({}, ["all:/data", "runs:/runs:ro"], "--out /runs/first: /runs is mounted read-only"),
    ],
)
def test_a_path_that_would_be_lost_with_its_pod_is_refused(
    changes: dict[str, Any], volumes: list[str], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        write(job(**changes), Options(image="i", volumes=volumes))


def test_data_at_a_url_need_no_volume() -> None:
    stored = job(data="s3://bucket/imagenet", judged_on="s3://bucket/test")
    assert manifest(stored, image="i", volumes=["runs:/runs"])


def test_more_pods_than_nodes_cannot_be_needed() -> None:
    with pytest.raises(ValueError, match="min_nodes=5 is more than the 4 nodes"):
        manifest(job(), image="i", volumes=VOLUMES, min_nodes=5)


@pytest.mark.parametrize(
    "options", [{"volumes": ["runs"]}, {"volumes": ["Runs:/x"]}, {"mem": "9 GB"}, {"node_selector": ["gpu"]}]
)
def test_values_that_kubernetes_would_refuse_are_refused_here(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(image="i", **options)


def test_names_are_labels_and_tell_runs_apart() -> None:
    outs = [
        "/runs/first",
        "/runs/First",
        "/runs/7 b",
        "/a/lr=1e-3,kappa=10",
        "/b/lr=1e-3,kappa=10",
        "/r/" + "x" * 99,
    ]
    names = [name_of(out) for out in outs]
    assert names[0] == "first"
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?", name) for name in names)


def test_a_volume_at_the_root_holds_everything() -> None:
    assert parse_volume("all:/") == ("all", "/", False)
