"""Check `versions`: Python, packages, the project's own code and the driver are the same on all ranks."""

import hashlib
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.verdict import FAIL, WARN, Seen, Verdict, odd_ones, passed, usual

NAME = "versions"
# Ranks with other releases of these may compute other numbers, or speak another protocol.
MUST_AGREE = ("python", "viewmill", "code", "torch", "cuda", "nccl", "deepspeed")
SHOULD_AGREE = ("numpy", "timm", "pillow", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "driver")
# What is hashed of each room; recipes are shipped, stored results are not.
_SOURCES = {
    "engine": (".py", ".yaml"),
    **dict.fromkeys(("methods", "pipelines", "shards", "tools"), (".py",)),
}


def gather() -> dict[str, Any]:
    """Versions by name; None: not installed, or no GPU."""
    import torch
    from viewmill.tools.preflight.gpus import driver_version

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "code": code_hash(),
        "cuda": torch.version.cuda,
    }
    for package in ("viewmill", "torch", "deepspeed", *SHOULD_AGREE[:-1]):
        found[package] = _version(package)
    with_nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    found["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if with_nccl else None
    found["driver"] = driver_version()
    return found


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """A rank whose version is not that of most, by name; a difference in `MUST_AGREE` fails."""
    verdicts = []
    for name in (*MUST_AGREE, *SHOULD_AGREE):
        values = {(one.host, one.rank): str(one.facts.get(name)) for one in seen}
        odd: dict[tuple[str, str], list[int]] = {}
        for (host, rank), value in odd_ones(values).items():
            odd.setdefault((host, value), []).append(rank)
        for (host, value), ranks in odd.items():
            found = (
                f"{name} {shown(name, value)} on rank {_list(ranks)}, {shown(name, usual(values))} elsewhere"
            )
            status = FAIL if name in MUST_AGREE else WARN
            verdicts.append(Verdict(NAME, status, host, found, remedy(name, usual(values))))
    first = seen[0].facts
    told = ", ".join(f"{name} {shown(name, str(first[name]))}" for name in MUST_AGREE if first.get(name))
    return verdicts or [passed(NAME, told)]


def shown(name: str, value: str) -> str:
    """A version as text; of a hash the beginning."""
    return value[:12] if name == "code" else value


def remedy(name: str, expected: str) -> str:
    """How to make it the same."""
    if name == "code":
        return "install the same commit of viewmill on every host"
    if name in ("cuda", "nccl"):
        return "install the same torch wheel on every host"
    if name in ("python", "driver"):
        return f"give every host the same {name}: {expected}"
    if expected == "None":
        return f"pip uninstall {name}, or install it on every host"
    return f"pip install {name}=={expected}"


def code_hash() -> str:
    """SHA-256 of the sources of this installation: an editable one may differ under one version."""
    import viewmill.engine

    digest = hashlib.sha256()
    rooms = Path(str(viewmill.engine.__file__)).parents[1]
    for room, endings in _SOURCES.items():
        folder = rooms / room
        for path in sorted(path for path in folder.rglob("*") if path.suffix in endings):
            digest.update(f"{room}/{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _list(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
