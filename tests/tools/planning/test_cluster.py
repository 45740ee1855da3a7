"""Clusters are YAML files that are checked; every preset loads and says where its figures come from."""

from pathlib import Path

import pytest
from viewmill.engine.strict import ConfigError
from viewmill.tools.planning.cluster import load_cluster, presets


@pytest.mark.parametrize("name", presets())
def test_each_preset_loads_and_names_its_sources(name: str) -> None:
    found = load_cluster(name)
    assert found.name == name
    assert len(found.source) > 20
    assert found.world_size == found.nodes * found.local_ranks >= 1
    assert found.gpu is None or found.gpu.efficiency_source


def test_the_presets_are_of_four_generations_and_a_machine_without_gpu() -> None:
    assert {"v100", "a100", "h100", "h200", "cpu"} <= set(presets())


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="the nearest preset is h100"):
        load_cluster("h10")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("nic_gbs=3", "nic_gbs is no setting; the nearest is nic_gb_s"),
        ("gpu.memory=3", "the nearest is gpu.memory_gb"),
        ("nodes=0", "nodes: .* greater than or equal to 1"),
        ("gpus_per_node=0", "give both, or gpu: null"),
        ("gpu.conv_fraction={bf16: 0.2}", "needs a share in"),
        ("gpu.peak_tflops={bf16: -312.0}", r"gpu.peak_tflops.bf16: .* greater than 0"),
        ("gpu.peak_tflops={}", "gpu: peak_tflops needs one of fp32, bf16, fp16"),
        ("physical_cores=512", "physical_cores=512 is more than cpu_threads=256"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(change: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_cluster("a100", [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clusters/none.yaml", "none.yml", "/nowhere/none"])
def test_a_file_that_is_missing_is_no_misspelt_preset(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"--cluster {name}: no such file"):
        load_cluster(name)


def test_a_file_is_a_cluster_too(tmp_path: Path) -> None:
    own = tmp_path / "ours.yaml"
    own.write_text(presets()["a100"].read_text().replace("nodes: 4", "nodes: 7"))
    assert load_cluster(str(own)).nodes == 7
    assert load_cluster(str(own), ["price_per_node_hour=20"]).price_per_node_hour == 20
