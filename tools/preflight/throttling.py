"""Check `throttling`: processors that heat or their power supply slows down before anything was computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.gpus import nvidia_smi, visible
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import FAIL, WARN, Seen, Verdict, of_hosts, passed

NAME = "throttling"
# Bits of NVML's reasons for clocks below what was asked; the others (idle, a setting) are none.
SLOWED = {0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}
CAPPED = {0x4: "power cap"}
_QUERY = "index,temperature.gpu,clocks.sm,clocks.max.sm"
# The name of the reasons changed with the driver's release 535.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# A zone this far below its trip point will reach it as soon as all cores work.
NEAR_TRIP_CELSIUS = 3.0


def gather(options: Options, root: Path = Path("/sys")) -> dict[str, Any]:
    """Rows of the GPUs that the ranks use; thermal zones of the host: temperature, lowest trip point, °C."""
    used = [] if options.device == "cpu" else visible()
    lines = nvidia_smi(*(f"{_QUERY},{name}" for name in _REASONS), of=used)
    gpus = [parse_clocks(line) for line in lines]
    return {"gpus": gpus, "zones": zones_of(root / "class/thermal")}


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """A slowed GPU or a thermal zone over its trip point fails; a power cap, or a zone near it, warns."""
    hosts = of_hosts(seen)
    verdicts = [v for one in hosts for row in one.facts["gpus"] for v in _of_gpu(one.host, row)]
    verdicts += [v for one in hosts for row in one.facts["zones"] for v in _of_zone(one.host, row)]
    gpus = sum(len(one.facts["gpus"]) for one in hosts)
    zones = sum(len(one.facts["zones"]) for one in hosts)
    return verdicts or [passed(NAME, f"none of {gpus} GPUs and {zones} thermal zones")]


def _of_gpu(host: str, row: dict[str, Any]) -> list[Verdict]:
    why = [text for bit, text in (SLOWED | CAPPED).items() if row["reasons"] & bit]
    if not why:
        return []
    status = FAIL if row["reasons"] & sum(SLOWED) else WARN
    found = f"GPU {row['index']} is slowed by {', '.join(why)}: {row['celsius']} °C, {row['mhz']} MHz"
    remedy = "look after cooling and power there (nvidia-smi -q -d PERFORMANCE), or leave the host out"
    return [Verdict(NAME, status, host, found, remedy)]


def _of_zone(host: str, zone: dict[str, Any]) -> list[Verdict]:
    spare = zone["trip_celsius"] - zone["celsius"]
    if spare > NEAR_TRIP_CELSIUS:
        return []
    found = f"{zone['name']} at {zone['celsius']:.0f} °C, slowed from {zone['trip_celsius']:.0f} °C on"
    status = FAIL if spare <= 0 else WARN
    return [Verdict(NAME, status, host, found, "look after the host's cooling, or leave it out")]


def parse_clocks(line: str) -> dict[str, Any]:
    """One line of nvidia-smi's CSV: number, °C, MHz, MHz at most, mask of reasons; None: not told."""
    index, celsius, mhz, max_mhz, mask = (word.strip() for word in line.split(","))
    return {
        "index": int(index),
        "celsius": _number(celsius),
        "mhz": _number(mhz),
        "max_mhz": _number(max_mhz),
        "reasons": int(mask, 16) if mask.startswith("0x") else 0,
    }


def zones_of(folder: Path) -> list[dict[str, Any]]:
    """Thermal zones that have a passive or hot trip point: name, °C, °C of the lowest such point."""
    found = []
    for zone in sorted(folder.glob("thermal_zone*")):
        kinds = {path: path.read_text().strip() for path in zone.glob("trip_point_*_type")}
        points = [
            _int(path.with_name(path.name.replace("_type", "_temp")))
            for path, kind in kinds.items()
            if kind in ("passive", "hot")
        ]
        reached = [point for point in points if point is not None and point > 0]
        now = _int(zone / "temp")
        if reached and now is not None:
            name = (zone / "type").read_text().strip()
            found.append({"name": name, "celsius": now / 1000, "trip_celsius": min(reached) / 1000})
    return found


def _int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # a sensor that is asleep
        return None


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:  # [N/A]
        return None
