"""Check `gpus`: one for every rank, of one kind on all hosts, and nothing else at work on them."""

import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import (
    FAIL,
    PASS,
    WARN,
    Seen,
    Verdict,
    bytes_text,
    odd_ones,
    of_hosts,
    passed,
    ranks_of,
    usual,
)

NAME = "gpus"
# Memory that is held on a GPU before the job begins: more than what a desktop or a monitor takes.
WARN_HELD_FRACTION, FAIL_HELD_FRACTION = 0.05, 0.5
_MEMORY = "index,memory.used,memory.total"  # MiB
_QUERY_S = 10.0


def gather(options: Options) -> dict[str, Any]:
    """Of the GPUs that torch sees: their names, and [number, MiB in use, MiB in all]; the recipe's device.

    Not by `torch.cuda.mem_get_info`: every rank would take memory of every GPU to ask.
    """
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    lines = [line.split(",") for line in nvidia_smi(_MEMORY, of=visible())]
    return {
        "device": options.device,
        "names": names,
        "memory": [[float(word) for word in words] for words in lines if _are_numbers(words)],
    }


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """Fails where GPUs are missing or taken; warns where kinds differ or some memory is held."""
    hosts, verdicts = of_hosts(seen), []
    kinds = {one.host: tuple(one.facts["names"]) for one in hosts}
    for one in hosts:
        count, ranks = len(one.facts["names"]), len(ranks_of(seen, one.host))
        # Without any GPU `auto` is the CPU.
        if count < ranks and (count or one.facts["device"] == "cuda"):
            found = f"{ranks} ranks, {count} GPUs"
            verdicts.append(
                Verdict(
                    NAME, FAIL, one.host, found, "start no more ranks than GPUs there, or pass device=cpu"
                )
            )
        verdicts += [_held(one.host, *row) for row in one.facts["memory"]]
    verdicts = [verdict for verdict in verdicts if verdict.status != PASS]
    for host, names in odd_ones(kinds).items():
        found = f"{_kinds(names)}; elsewhere {_kinds(usual(kinds))}"
        status = WARN if bool(names) == bool(usual(kinds)) else FAIL
        verdicts.append(
            Verdict(NAME, status, host, found, "look at nvidia-smi and CUDA_VISIBLE_DEVICES there")
        )
    return verdicts or [passed(NAME, f"on each host {_kinds(usual(kinds))}")]


def _held(host: str, index: float, used: float, total: float) -> Verdict:
    share = used / total if total else 0.0
    status = FAIL if share > FAIL_HELD_FRACTION else WARN if share > WARN_HELD_FRACTION else PASS
    found = f"{bytes_text(used * 2**20)} of {bytes_text(total * 2**20)} of GPU {index:.0f} are in use already"
    return Verdict(NAME, status, host, found, "end what runs there (nvidia-smi shows it)")


def _kinds(names: Sequence[str]) -> str:
    if not names:
        return "no GPU"
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def driver_version() -> str | None:
    """NVIDIA's driver; None without one."""
    lines = nvidia_smi("driver_version")
    return lines[0].strip() if lines else None


def visible() -> list[str]:
    """The GPUs that torch sees, as nvidia-smi names them.

    By UUID: nvidia-smi lists every GPU of the host, by its place on the bus; CUDA_VISIBLE_DEVICES hides some
    and CUDA numbers the rest, by speed unless it is told otherwise.
    """
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"GPU-{str(one.uuid).removeprefix('GPU-')}" for one in found]


def nvidia_smi(*queries: str, of: Sequence[str] | None = None) -> list[str]:
    """A line a GPU of the first query that this release of nvidia-smi understands; none without GPUs.

    Args:
        of: UUIDs of the GPUs that are asked for; None: all of the host. Of a part of a GPU (MIG) nvidia-smi
            knows none of these figures: no line.
    """
    program = shutil.which("nvidia-smi") if of is None or of else None
    chosen = [] if of is None else ["-i", ",".join(of)]
    for query in queries if program is not None else ():
        words = [str(program), *chosen, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_QUERY_S)
        if done.returncode == 0:
            return done.stdout.splitlines()
    return []


def _are_numbers(words: Sequence[str]) -> bool:
    return all(
        word.strip().replace(".", "", 1).isdigit() for word in words
    )  # else [N/A], as where it is shared
