"""What a run ran on: versions and hardware, without names of machines or folders."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from viewmill.engine.world import World

PACKAGES = (
    "viewmill",
    "torch",
    "torchvision",
    "timm",
    "deepspeed",
    "numpy",
    "pillow",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)


def environment(world: World) -> dict[str, Any]:
    """JSON-able description of software, processors and the job's size."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "world_size": world.world_size,
        "device": world.device.type,
        "torch_threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
