"""`bench draws`: equal distributions pass, other ones fail, narrow images fall back as torchvision's do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms
from viewmill.tools.bench import draws
from viewmill.tools.cli import app
from viewmill.tools.console import run_app


@pytest.mark.slow
def test_every_parameter_is_distributed_as_torchvision_draws_it(tmp_path: Path) -> None:
    out = tmp_path / "draws.json"
    assert run_app(app, ["bench", "draws", "--draws", "2000", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["figures"]
    assert found["passed"]
    assert found["threshold"] == 0.01 / len(found["tests"])
    named = {test["parameter"] for test in found["tests"]}
    assert {"crop: area", "brightness", "hue", "blur sigma", "choice: solarize"} <= named


def test_another_distribution_fails() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.random(2000), generator.random(2000) ** 1.2
    assert draws.kolmogorov("x", "", one, other)["p"] < 1e-4
    assert draws.kolmogorov("x", "", one, generator.random(2000))["p"] > 1e-3
    assert draws.chi_square("x", "", one < 0.5, one < 0.4)["p"] < 1e-4
    assert draws.chi_square("x", "", one < 2, one < 2)["p"] == 1
    assert draws.chi_square("x", "", one < 2, one < 0)["p"] < 1e-4


def test_a_planner_of_other_ranges_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(draws, "BRIGHTNESS", (0.6, 1.4))
    assert all(test["p"] > 1e-4 for test in draws.compare_colours(1000, 0))
    real = draws.drawn

    def wider(view: draws.ViewDistribution, *more: int) -> draws.ViewPlan:
        from dataclasses import replace

        return real(replace(view, brightness=(0.5, 1.5)), *more)

    monkeypatch.setattr(draws, "drawn", wider)
    by_name = {test["parameter"]: test["p"] for test in draws.compare_colours(1000, 0)}
    assert by_name["brightness"] < 1e-4 < by_name["contrast"]


@pytest.mark.parametrize(("width", "height"), [(1000, 20), (20, 1000), (777, 13), (13, 777)])
def test_the_fallback_is_the_box_of_torchvision(width: int, height: int) -> None:
    image = torch.empty(1, height, width)
    theirs = transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    assert draws.fallback_box(width, height).tolist() == list(theirs)
    tests = draws.compare_crops(width, height, (0.08, 1.0), 100, 0)
    assert [test["p"] for test in tests] == [1.0]


def test_narrow_images_fall_back_sometimes() -> None:
    torch.manual_seed(0)
    tests = draws.compare_crops(640, 64, (0.08, 1.0), 300, 0)
    assert len(tests) == 7
    assert tests[0]["statistic"] > 0
    assert min(test["p"] for test in tests) > 1e-3


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 100"):
        draws.run(50)
