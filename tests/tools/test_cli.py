"""The command line: help with an example everywhere, and one line and an exit code for everything wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from viewmill.engine.preemption import Requeue
from viewmill.shards.errors import ImageError, ShardError
from viewmill.tools.bench_commands.app import COMMANDS as BENCHES
from viewmill.tools.cli import COMMANDS, app
from viewmill.tools.console import describe, one_line, run_app

LEAVES = [[name] for name in COMMANDS] + [["config", word] for word in ("show", "validate", "schema")]
LEAVES += [["recipes"], ["recipes", "show"], ["bench", "results"], *(["bench", name] for name in BENCHES)]
LEAVES += [["bench", "loss", name] for name in ("hydes", "imsvd")]


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    for number in range(4):
        write_image(root / "source" / "a" / f"{number}.png", number)
    assert run_app(app, ["convert", str(root / "source"), str(root / "ds"), "--workers", "1", "--json"]) == 0
    return root / "ds"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that must fail and print nothing else."""
    code = run_app(app, arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return code, captured.err


@pytest.mark.parametrize("words", [[], ["config"], ["bench"], *LEAVES], ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, [*words, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Usage: " in shown
    assert f"Example: viewmill {' '.join(words)}" in shown


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'deepspeed', 'nvidia.dali', 'sklearn', 'skimage', 'pyarrow', 'numpy'}"
    heavy += " | {'plotly', 'matplotlib'}"
    program = (
        "import sys; from viewmill.tools.cli import app; from viewmill.tools.console import run_app;"
        f"code = run_app(app, ['--help']); sys.exit(code or ','.join(({heavy}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "viewmill.tools.cli", "verify", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no data set here" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "trian"),
        (["convert"], "SOURCE"),
        (["convert", "x", "y", "--chek", "header"], "--chek"),
        (["convert", "x", "y", "--check", "often"], "often"),
        (["sample-data", "x", "--size", "0"], "--size"),
        (["train", "hydes_tiny"], "--data"),
    ],
)
def test_wrong_usage_names_the_word_and_points_to_help(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(arguments, capsys)
    assert code == 2
    assert expected in line
    assert line.endswith("see --help\n")


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["convert", "{missing}", "{fresh}"], "give the folder that holds the images"),
        (["verify", "{missing}"], "make one with: viewmill convert"),
        (["inspect", "{missing}"], "make one with: viewmill convert"),
        (["preview", "{missing}", "key"], "make one with: viewmill convert"),
        (["train", "hydes_tiny", "--data", "{missing}", "--out", "{fresh}"], "viewmill convert"),
        (["evaluate", "{missing}", "--train", "{missing}", "--on", "{missing}"], "viewmill convert"),
        (["bench", "loader", "--data", "{missing}", "--out", "{fresh}"], "make one with: viewmill convert"),
        (["report", "{missing}"], "give the folder that viewmill train wrote"),
        (["config", "show", "{missing}"], "give the path of a YAML file, or one of: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_missing_path_is_named_with_what_to_do(
    command: list[str], remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, fresh = tmp_path / "missing", tmp_path / "fresh"
    code, line = refused([word.format(missing=missing, fresh=fresh) for word in command], capsys)
    assert code == 2
    assert str(missing) in line
    assert remedy in line
    assert not fresh.exists()


def test_an_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, line = refused(["convert", str(tmp_path / "empty"), str(tmp_path / "ds")], capsys)
    assert code == 2
    assert str(tmp_path / "empty") in line


def test_a_folder_of_corrupt_images_only_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "source" / "a" / "0.png")
    whole = (tmp_path / "source" / "a" / "0.png").read_bytes()
    (tmp_path / "source" / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["convert", str(tmp_path / "source"), str(tmp_path / "ds"), "--workers", "1"]
    code, line = refused(arguments, capsys)
    assert code == 1
    assert "none of 1 files is a usable image" in line


@pytest.mark.parametrize(("allowed", "expected"), [("1", 0), ("0", 3)])
def test_a_corrupt_image_is_quarantined_and_a_limit_is_a_fault(
    allowed: str, expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_image(tmp_path / "source" / "a" / f"{number}.png", number)
    whole = (tmp_path / "source" / "a" / "0.png").read_bytes()
    (tmp_path / "source" / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["convert", str(tmp_path / "source"), str(tmp_path / "ds"), "--workers", "1", "--json"]
    assert run_app(app, [*arguments, "--max-quarantine", allowed]) == expected
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["quarantined"]) == (1, 1)


def test_verify_finds_a_flipped_bit_and_says_so_with_exit_code_3(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "ds"
    shutil.copytree(dataset, copy)
    capsys.readouterr()
    assert run_app(app, ["verify", str(copy)]) == 0
    shard = next(copy.glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    assert run_app(app, ["verify", str(copy), "--json"]) == 3
    faults = json.loads(capsys.readouterr().out.partition("whole\n")[2])
    assert {fault["file"] for fault in faults} == {shard.name}


def test_verify_repairs_an_index(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ds"
    shutil.copytree(dataset, copy)
    index = next(copy.glob("*.idx"))
    expected = index.read_bytes()
    index.unlink()
    assert run_app(app, ["verify", str(copy)]) == 3
    assert run_app(app, ["verify", str(copy), "--repair"]) == 0
    assert index.read_bytes() == expected


@pytest.mark.parametrize("command", [["config", "show"], ["config", "validate"], ["train"]])
def test_an_unknown_recipe_key_is_answered_with_the_nearest(
    command: list[str], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("epochs: 1\nbatch_size: 4\noptimizer:\n  learning_rat: 1\n  lrr: 2\n")
    paths = ["--data", str(dataset), "--out", str(tmp_path / "run")] if command == ["train"] else []
    capsys.readouterr()
    code, line = refused([*command, str(recipe), *paths], capsys)
    assert code == 2
    assert f"{recipe}: " in line
    assert "optimizer.lrr is no setting; the nearest is optimizer.lr" in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_view_preset_in_a_recipe_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(["config", "validate", "hydes_tiny", "views.preset=hydess"], capsys)
    assert code == 2
    assert "did you mean 'hydes'" in line


def test_config_show_prints_settings_that_load_to_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["config", "show", "hydes_tiny", "optimizer.lr=2e-3"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert run_app(app, ["config", "show", str(tmp_path / "shown.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optimizer"]["lr"] == 2e-3


def test_the_schema_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["config", "schema"]) == 0
    assert "batch_size" in json.loads(capsys.readouterr().out)["properties"]


def test_env_tells_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["torch"]


def test_deepspeeds_local_rank_may_not_contradict_the_variable(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    paths = ["--data", str(dataset), "--out", str(tmp_path / "run")]
    code, line = refused(["train", "--local_rank=0", "hydes_tiny", *paths], capsys)
    assert code == 2
    assert "--local_rank 0 contradicts LOCAL_RANK=1" in line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad setting"), (2, "error: bad setting")),
        (FileNotFoundError(2, "No such file or directory", "x.tar"), (2, "error: x.tar: No such file")),
        (ShardError("train-000000.tar: sample 'a' ..."), (1, "error: train-000000.tar")),
        (ImageError("too large: 9 bytes"), (1, "error: too large")),
        (RuntimeError("first\n  second"), (1, "error: first second")),
        (PermissionError(13, "Permission denied", "x"), (1, "error: x: Permission denied")),
        (Requeue("SIGTERM", 7, Path("run")), (85, "SIGTERM after step 7: saved")),
        (KeyboardInterrupt(), (130, "interrupted")),
        (
            ModuleNotFoundError("No module", name="lightly.x"),
            (1, "error: lightly.x is not installed; run: pip"),
        ),
        (KeyError("x"), (1, "error: KeyError: 'x'; a defect: run again with --debug")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_becomes_one_line_and_its_exit_code(
    error: BaseException, expected: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    failing = typer.Typer()

    @failing.command()
    def fail() -> None:
        raise error

    code, line = expected
    assert run_app(failing, []) == code
    shown = capsys.readouterr().err
    assert shown.startswith(line)
    assert shown.count("\n") == 1


@pytest.mark.parametrize("way", ["option", "variable"])
def test_debug_shows_the_traceback(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = typer.Typer()

    @failing.command()
    def fail() -> None:
        raise ValueError("bad setting")

    if way == "variable":
        monkeypatch.setenv("VIEWMILL_DEBUG", "1")
    with pytest.raises(ValueError, match="bad setting"):
        run_app(failing, ["--debug"] if way == "option" else [])


def test_a_line_holds_no_control_characters() -> None:
    assert one_line("a\x1b[31mb\nc") == "a\\x1b[31mb c"


def test_lines_of_several_ranks_can_be_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run_app(app, ["verify", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("[rank 1] error: nowhere")


def test_pydantic_errors_are_one_line() -> None:
    from pydantic import ValidationError
    from viewmill.engine.config import ModelConfig

    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({"backbone": 3, "stem": "x"})
    code, line = describe(caught.value)
    assert code == 2
    assert "\n" not in line
