"""Medians of repeated measurements, with their ranges."""

import statistics
from typing import Any


def medians(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the rows' columns, and their ranges as `NAME_range`."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found: dict[str, Any] = {name: statistics.median(values) for name, values in columns.items()}
    return found | {f"{name}_range": [min(values), max(values)] for name, values in columns.items()}


def spread(figures: dict[str, Any], name: str, digits: int) -> str:
    """A median and its range as text."""
    low, high = figures[f"{name}_range"]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
