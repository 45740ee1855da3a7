"""The published table of differences from the reference is what the command found, and still holds."""

from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.bench import parity
from viewmill.tools.bench.result import read_result

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tools" / "bench" / "results" / "parity" / "parity.json"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return read_result(PUBLISHED).figures


def test_the_readme_shows_the_stored_figures(published: dict[str, Any]) -> None:
    text = (ROOT / "pipelines" / "README.md").read_text(encoding="utf-8")
    shown = text.split(parity.BEGIN)[1].split(parity.END)[0].strip()
    assert shown == parity.markdown(published)


def test_the_stored_figures_are_of_every_case_and_within_their_bounds(published: dict[str, Any]) -> None:
    assert list(published["executors"]) == ["host", "resident", "dali", "dali-operators", "ffcv"]
    for figures in published["executors"].values():
        assert list(figures) == list(parity.cases())
    assert published["bounds"] == {name: parity.bound_of(name) for name in published["executors"]}
    assert parity.beyond_bounds(published) == []


@pytest.mark.parametrize("executor", ["host", "resident"])
def test_an_executor_is_still_within_the_published_bounds(published: dict[str, Any], executor: str) -> None:
    found = parity.run(executors=[executor], scale=0.125)
    assert list(found["executors"][executor]) == list(published["executors"][executor])
    assert parity.beyond_bounds(found) == []


@pytest.mark.slow
def test_dali_is_still_within_the_published_bounds() -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    assert parity.beyond_bounds(parity.run(executors=["dali", "dali-operators"], scale=0.5)) == []


def test_a_difference_over_the_bound_is_named(published: dict[str, Any]) -> None:
    figures = {"max": 3.0, "mean": 1.5, "psnr": 40.0}
    result = {"bounds": {"dali-operators": 1.0}, "executors": {"dali-operators": {"flip": figures}}}
    assert parity.beyond_bounds(result) == [
        "dali-operators: 'flip' differs by 1.5 of 255 in the mean, the bound is 1"
    ]


def test_a_readme_without_markers_is_refused(published: dict[str, Any], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no table here", encoding="utf-8")
    with pytest.raises(ValueError, match="between which the table goes"):
        parity.write_into(readme, published)
    readme.write_text(f"before\n{parity.BEGIN}\nold\n{parity.END}\nafter\n", encoding="utf-8")
    parity.write_into(readme, published)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert parity.markdown(published) in text


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown executor 'hots'"):
        parity.run(executors=["hots"])
