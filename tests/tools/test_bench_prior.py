"""`bench prior` on the smallest things: what it measures and what it says of it."""

from pathlib import Path

import pytest
from rich.console import Console
from viewmill.tools.bench.prior import ratios, run, table

from tests.engine.tiny import tiny_data_set


@pytest.mark.slow
def test_passes_and_trainings_are_measured_in_turn_and_shown(tmp_path: Path) -> None:
    data, told = tiny_data_set(tmp_path, count=9), []
    options = {"backbone": "test_resnet", "view_preset": "hydes@32", "pass_sizes": (32, 16)}
    result = run(str(data), images=8, batch_size=4, repeats=2, threads=1, progress=told.append, **options)  # type: ignore[arg-type]
    names = ["pass at 32", "pass at 16", "training hydes", "training distill"]
    assert list(result["peers"]) == names
    assert told == [f"first time: {name}" for name in names] + [
        f"round {number} of 2: {name}" for number in (1, 2) for name in names
    ]
    assert all(figures["cpu_ms"] > 0 for figures in result["peers"].values())
    assert len(result["ratios"]) == 4
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(result))
    assert "pass at 32 / training hydes" in capture.get()
    with pytest.raises(ValueError, match="8 images in batches of 3"):
        run(str(data), images=8, batch_size=3)
    with pytest.raises(ValueError, match="has 9 images, 12 are asked for"):
        run(str(data), images=12, batch_size=4)


def test_a_ratio_is_of_the_same_round() -> None:
    measured = {
        "pass at 32": [{"cpu_ms": 1.0, "wall_ms": 2.0}, {"cpu_ms": 4.0, "wall_ms": 4.0}],
        "training x": [{"cpu_ms": 10.0, "wall_ms": 10.0}, {"cpu_ms": 20.0, "wall_ms": 10.0}],
    }
    found = ratios(measured)["pass at 32 / training x"]
    assert found["cpu_range"] == [0.1, 0.2]
    assert found["wall_range"] == [0.2, 0.4]
