"""`bench loader` measures every peer on the same images, and says what it ran on."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from viewmill.pipelines.views import preset

from tests.pipelines.photographs import photographs, write_dataset

pytest.importorskip("nvidia.dali", reason="DALI is not installed")
pytest.importorskip("lightly", reason="lightly is not installed")
from viewmill.tools.bench import loader, loader_peers
from viewmill.tools.bench.waterfall import STAGES

pytestmark = pytest.mark.slow
SPEC = preset("hydes@32")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = write_dataset(tmp_path_factory.mktemp("bench"), 12)
    return loader.run(
        data, repeats=2, batch_size=4, threads=1, executors=("host", "dali"), view_preset="hydes@32"
    )


def test_every_peer_is_measured_and_compared(result: dict[str, Any]) -> None:
    peers = result["peers"]
    assert list(peers) == [
        "viewmill host, plan-fed",
        "viewmill dali, plan-fed",
        "DALI's own random operators",
        "torchvision on Pillow",
        "torchvision v2 on uint8",
        "lightly DINOTransform",
    ]
    for figures in peers.values():
        low, high = figures["cpu_ms_per_image_quartiles"]
        assert 0 < low <= figures["cpu_ms_per_image"] <= high
        assert figures["images_per_s"] > 0
    ratios = result["ratios"]["viewmill dali, plan-fed"]
    found = ratios["lightly DINOTransform"]["cpu"] * peers["viewmill dali, plan-fed"]["cpu_ms_per_image"]
    assert found == pytest.approx(peers["lightly DINOTransform"]["cpu_ms_per_image"])
    both = [ratios[name]["cpu"] for name in ratios if name.startswith("torchvision ")]
    assert ratios["torchvision"]["cpu"] == min(both)


def test_a_result_is_json_and_names_hardware_but_no_machine_or_folder(
    result: dict[str, Any], tmp_path: Path
) -> None:
    text = json.dumps(result)
    assert result["fingerprint"]["cpu"]
    assert {"torchvision", "lightly", "numpy"} <= set(result["fingerprint"]["packages"])
    assert "/tmp" not in text
    assert str(Path.home()) not in text


def test_the_stages_add_up_to_decoding_and_the_kernel(result: dict[str, Any]) -> None:
    found = result["waterfall"]
    assert list(found["stages"]) == list(STAGES)
    assert sum(found["stages"].values()) == pytest.approx(found["stages"]["decode"] + found["kernel"])
    assert found["stages"]["decode"] * found["decode_bound"] == pytest.approx(1000)


def test_the_table_shows_what_was_found(result: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(loader.table(result))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "lightly DINOTransform" in shown
    for executor, goal in (("host", 6), ("dali", 2)):
        ratio = result["ratios"][f"viewmill {executor}, plan-fed"]["torchvision"]["cpu"]
        assert f"{ratio:.2f} (>= {goal})" in shown
    assert "crop and resize" in shown


@pytest.mark.parametrize(
    "make", [loader_peers.torchvision_pil, loader_peers.torchvision_tensor, loader_peers.lightly_dino]
)
def test_per_image_peers_give_normalised_views_of_the_same_sizes(make: Any) -> None:
    views = make(SPEC)(photographs()["flower.jpg"])
    assert [tuple(view.shape) for view in views] == [(3, size, size) for size in SPEC.sizes]
    assert all(view.dtype == torch.float32 for view in views)
    lowest, highest = -max(m / s for m, s in zip(SPEC.mean, SPEC.std, strict=True)), 1 / min(SPEC.std)
    assert all(lowest - 1e-3 <= view.min() and view.max() <= highest for view in views)


def test_dalis_own_random_operators_give_the_same_sizes() -> None:
    views = loader_peers.dali_random(SPEC, 2, 1)([photographs()["flower.jpg"]] * 2)
    assert [tuple(view.shape) for view in views] == [(2, 3, size, size) for size in SPEC.sizes]
    assert not torch.equal(views[0][0], views[0][1])


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_pool_works_through_every_image(kind: str) -> None:
    from viewmill.tools.bench.pools import ImagePool

    pool = ImagePool(kind, loader_peers.torchvision_pil, SPEC, 1)
    elsewhere_s = pool([photographs()["flower.jpg"]] * 4)
    pool.close()
    assert (elsewhere_s > 0) == (kind == "processes")


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be >= 1, got 0"):
        loader.run(tmp_path, repeats=0)
    data = write_dataset(tmp_path, 3)
    with pytest.raises(ValueError, match="3 samples, a batch of 4 needs more"):
        loader.run(data, batch_size=4)
