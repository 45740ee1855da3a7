"""`bench knn` searches alike in every way, extrapolates a straight line, and tells what it found."""

import json
from pathlib import Path

import pytest
import torch
from viewmill.tools.bench import knn
from viewmill.tools.bench.goals import goals_of
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

SETTINGS = {"queries": 1000, "bank": 10_000, "width": 2048, "k": 200, "threads": 1}


def figures(cpu_seconds: float, extra_mib: float = 100.0) -> dict[str, float]:
    return {"seconds": cpu_seconds, "cpu_seconds": cpu_seconds, "extra_mib": extra_mib}


def test_time_of_the_whole_is_that_of_a_line_through_both_banks() -> None:
    # 1,000 queries: 2 s, and 3 s for 10,000 rows.
    whole = knn.whole_of(SETTINGS, figures(5.0), figures(3.5), figures(10.0), figures(0.0, 300.0))
    assert whole["cpu_hours"] == pytest.approx(50 * (2 + 3e-4 * 1_281_167) / 3600)
    assert whole["predicted_over_measured"] == pytest.approx(1.0)
    assert whole["extra_mib"] == 400
    assert whole["features_mib"] == pytest.approx((50_000 + 1_281_167) * 2048 * 4 / 2**20)


def test_goals_hold_the_figures_against_one_product() -> None:
    peers = {knn.OURS: figures(10.0), knn.PRODUCT: figures(9.0, 800.0)}
    peers |= {knn.SKLEARN: figures(20.0), knn.BARE: figures(5.0)}
    ratios = knn.ratios_of(peers)
    assert (ratios["speed_of_one_product"], ratios["memory_of_one_product"]) == (0.9, 8)
    assert (ratios["speed_of_scikit_learn"], ratios["of_the_products"]) == (2, 2)
    whole = {"extra_mib": 2000.0, "predicted_over_measured": 1.3}
    met = [goal.met for goal in goals_of("knn", {"whole": whole, "ratios": ratios}, {})]
    assert met == [False, True, False]


def test_all_ways_search_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they return is thrown away by the benchmark; here it is looked at."""
    found: dict[str, torch.Tensor] = {}
    draws = torch.Generator().manual_seed(1)
    queries, bank = (torch.randn(rows, 16, generator=draws) for rows in (40, 300))
    similarity = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T
    wanted = similarity.topk(5, dim=1).indices.sort(dim=1).values

    original = torch.Tensor.topk

    def kept(self: torch.Tensor, k: int, dim: int) -> torch.Tensor:
        found[knn.PRODUCT] = original(self, k, dim).indices
        return original(self, k, dim)

    monkeypatch.setattr(torch.Tensor, "topk", kept)
    knn.WAYS[knn.PRODUCT](queries, bank, 5)
    monkeypatch.undo()
    found[knn.OURS] = knn.nearest(queries, bank, 5).rows
    for name, rows in found.items():
        assert torch.equal(rows.sort(dim=1).values, wanted), name


def test_the_command_measures_a_small_slice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "knn.json"
    # In this process, and without the results of 50,000 queries: figures of such a size mean nothing anyway.
    monkeypatch.setattr(knn, "in_a_process", lambda function, *given: function(*given))
    monkeypatch.setitem(knn.WHOLE, "queries", 512)
    words = ["--queries", "512", "--bank", "1024", "--width", "8", "--k", "3", "--repeats", "1"]
    assert run_app(app, ["bench", "knn", *words, "--out", str(out)]) == 0
    assert "512 against 1,024 of 8 features" in " ".join(capsys.readouterr().out.split())
    tree = json.loads(out.read_text())
    assert set(tree["figures"]["peers"]) == set(knn.WAYS)
    assert tree["figures"]["whole"]["cpu_hours"] > 0
    assert len(goals_of("knn", tree["figures"], tree["settings"])) == 3


def test_a_slice_of_less_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="queries must be at least 512"):
        knn.run(queries=100)
    with pytest.raises(ValueError, match="k within 1"):
        knn.run(bank=300, k=200)
