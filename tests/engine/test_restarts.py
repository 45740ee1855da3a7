"""What a job that is restarted by itself finds, with one command for all its starts."""

from pathlib import Path

import pytest
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.config import ConfigError
from viewmill.engine.train import find_start
from viewmill.engine.world import restarts_alone, was_restarted

from tests.engine.tiny import tiny_config


def start(run: Path, may_begin: bool = True) -> object:
    return find_start(run, tiny_config(), resume=True, may_begin=may_begin)


def test_the_first_start_begins_the_run(tmp_path: Path) -> None:
    assert start(tmp_path / "run") is None
    (tmp_path / "run").mkdir()
    assert start(tmp_path / "run") is None


@pytest.mark.parametrize(
    "file", ["config.yaml", "heartbeats/rank-0.json", "checkpoints/.step_00000001.new-0/x"]
)
def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path, file: str) -> None:
    for name in {"config.yaml", file}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert start(tmp_path) is None


@pytest.mark.parametrize("name", ["step_00000001", "latest"])
def test_a_checkpoint_that_is_lost_is_no_reason_to_begin_again(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_text("step_00000001\n")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        start(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds no run to resume"):
        start(tmp_path)


def test_without_an_agent_that_restarts_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume"):
        start(tmp_path / "rnu", may_begin=False)


def test_a_start_that_failed_ahead_of_the_run_leaves_a_free_folder(tmp_path: Path) -> None:
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "faults").mkdir()
    assert start(tmp_path) is None
    assert find_start(tmp_path, tiny_config(), resume=False) is None


def test_torchruns_variables_say_whether_it_restarts_and_has() -> None:
    first = {"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "3"}
    assert (restarts_alone(first), was_restarted(first)) == (True, False)
    assert was_restarted({**first, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert not restarts_alone({**first, "TORCHELASTIC_MAX_RESTARTS": "0"})
    assert not restarts_alone({})
    assert restarts_alone({"VIEWMILL_MAY_BEGIN": "1"})  # of a scheduler that starts the job again
    assert not was_restarted({})
