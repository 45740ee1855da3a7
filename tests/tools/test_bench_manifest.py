"""`bench manifest` makes a data set that is one, measures it, and leaves nothing behind."""

from pathlib import Path

import pytest
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench import manifest
from viewmill.tools.cli import app
from viewmill.tools.console import run_app


def test_its_data_set_opens_and_both_manifests_agree(tmp_path: Path) -> None:
    manifest.write_data_set(tmp_path, 150_000, parquet=True)
    with Dataset.open(tmp_path) as dataset:
        assert dataset.num_samples == 150_000
        assert dataset.keys([0, 149_999]) == ["0/0", "999/149999"]
        assert dataset.labels([1_007]).tolist() == [7]
        assert dataset.manifest[100_001]["shard"] == 1
        assert dataset.manifest[100_001]["offset"] == manifest.IMAGE_BYTES
    assert manifest.time_query(tmp_path)["found"] == 150


def test_the_command_measures_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "manifest", "--rows", "2048", "--repeats", "1", "--folder", str(tmp_path)]
    assert run_app(app, [*words, "--out", str(tmp_path / "out.json")]) == 0
    assert "2,048 rows" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1024"):
        manifest.run(100, tmp_path)
