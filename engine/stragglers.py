"""Where each rank's time went over a run, and which rank the others waited for: from ranks.jsonl."""

import json
from pathlib import Path
from typing import Any

from viewmill.engine.telemetry import read_lines, replace_text

FILE = "stragglers.json"
# The columns of ranks.jsonl that it is made of.
COLUMNS = ("step_s", "data_wait_fraction", "rank_wait_fraction")


def straggler_table(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds and shares of each rank over the lines of the last number of ranks.

    A rank that is slow waits least for the others, so the straggler is the one with the smallest
    communication. That is the waiting at the small all-reduce that each step begins with; the gradient's
    sums are part of compute, which is all that is left.

    Args:
        lines: of ranks.jsonl, `step` and for each of COLUMNS a list by rank.

    Returns:
        {first_step, last_step, straggler, waited_s, ranks: [{rank, total_s, data_wait_s, compute_s,
        communication_s, data_wait_fraction, compute_fraction, communication_fraction}]}; waited_s is what the
        other ranks, in the mean, waited more than the straggler. Empty without lines.
    """
    if not lines:
        return {}
    size, first = len(lines[-1]["step_s"]), len(lines)
    while first > 0 and len(lines[first - 1]["step_s"]) == size:
        first -= 1
    step = before = lines[first - 1]["step"] if first else 0
    none = {"total_s": 0.0, "data_wait_s": 0.0, "communication_s": 0.0}
    totals = [{"rank": rank, **none} for rank in range(size)]
    for line in lines[first:]:
        steps, step = line["step"] - step, line["step"]
        for rank, total in enumerate(totals):
            seconds = steps * line["step_s"][rank]
            total["total_s"] += seconds
            total["data_wait_s"] += seconds * line["data_wait_fraction"][rank]
            total["communication_s"] += seconds * line["rank_wait_fraction"][rank]
    ranks = [_with_shares(total) for total in totals]
    slowest = min(ranks, key=lambda rank: rank["communication_s"])
    others = [rank["communication_s"] for rank in ranks if rank is not slowest]
    waited_s = sum(others) / len(others) - slowest["communication_s"] if others else 0.0
    return {
        "first_step": before + 1,
        "last_step": step,
        "straggler": slowest["rank"],
        "waited_s": round(waited_s, 3),
        "ranks": ranks,
    }


def _with_shares(total: dict[str, float]) -> dict[str, Any]:
    compute_s = max(0.0, total["total_s"] - total["data_wait_s"] - total["communication_s"])
    seconds = {**total, "compute_s": compute_s}
    parts = ("data_wait", "compute", "communication")
    shares = {f"{part}_fraction": seconds[f"{part}_s"] / max(total["total_s"], 1e-9) for part in parts}
    rounded = {name: round(value, 4) for name, value in {**seconds, **shares}.items()}
    return {**rounded, "rank": int(total["rank"])}


def write_stragglers(run_dir: Path) -> None:
    """RUN/stragglers.json, of all that is logged so far."""
    table = straggler_table(read_lines(run_dir / "ranks.jsonl"))
    if table:
        replace_text(run_dir / FILE, json.dumps(table, indent=2) + "\n")
