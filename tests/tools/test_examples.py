"""Every command's example runs as its help shows it, on small data; what makes it small stands behind it."""

import contextlib
import io
import itertools
import shlex
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import typer
from PIL import Image
from viewmill.tools.cli import COMMANDS, app
from viewmill.tools.console import run_app

from tests.tools.launching import JOB, SETTINGS, port
from tests.tools.preflight.test_preflight_command import SHELL
from tests.tools.test_cli import LEAVES

pytestmark = pytest.mark.slow

DISTILL = [word for word in SETTINGS if not word.startswith(("views.preset", "method."))]
DISTILL += ["views.preset=dino_global@32", "method.num_clusters=4", "method.clusters=learned"]
DISTILL += ["method.projector={layers: 2, hidden: 16, dim: 8}"]
# What makes the example small, behind its own words: of an option given twice the last one counts.
TINY = "--threads 1 --backbone test_resnet --preset hydes@32"
SMALL = {
    "sample-data": "--size 32 --tiles 1 --test-tiles 1",
    "convert": "--workers 1",
    "evaluate": "--tasks knn@5,linear",
    "replay": "--step 2 --rank 0",
    "preflight": f"--ssh ./shell --port {port()} --no-network --threads 1",
    "bench loss hydes": "--vectors 64 --dim 8 --repeats 1",
    "bench loss imsvd": "--rows 32 --dim 16 --units 4 --repeats 1 --ranks 1",
    "bench manifest": "--rows 2048 --repeats 1",
    "bench draws": "--draws 200",
    "bench loader": "--repeats 1 --batch-size 8 --threads 1 --executor host",
    "bench gpu": f"--device cpu --executor host --steps 1 --repeats 1 --batch-size 8 {TINY}",
    "bench train": f"--steps 2 --block 1 --repeats 1 {TINY}",
    "bench plan": "--steps 1 --repeats 1 --set model.backbone=test_resnet",
    "bench doctor": "--steps 1 --repeats 1 --rounds 1 --profile-steps 1 --set batch_size=4",
    "bench memory": "--stage 0 --world-size 1 --accumulation 1 --size 32 --size 32 --backbone test_vit",
    "bench prior": f"--images 8 --batch-size 8 --repeats 1 --pass-size 32 {TINY}",
    "bench methods": "--runs hydes --size 32 --batch-size 8 --epochs 1 --max-steps 2 --threads 1 "
    "--set model.backbone=test_resnet",
    "bench convert": "--repeats 1 --workers 1",
    "bench order": "--repeats 1",
    "bench sentinels": "--repeats 1 --threads 1",
}
SETTINGS_OF = {"train": SETTINGS, "profile": [*SETTINGS, "--no-trials"]}
# Minutes, however small, or many processes; their own tests run what is beneath.
LONG = {"order", "sentinels", "plan", "doctor", "parity", "gpu", "train", "memory", "methods", "prior"}
LONG |= {"loader", "loss", "convert", "knn"}
# Typed where their own tests have the places that they name.
ELSEWHERE = {
    "launch": "test_launch_command.py",
    "segment": "test_segment_command.py",
    "pictures": "pictures/test_pictures_command.py",
    "curves": "pictures/test_sweep_curves.py",
    "export": "test_export_command.py",
    "compare": "comparison/test_compare.py",
}
# What an example makes itself, and so must not find.
MADE = {"convert": ("DATASET",), "train": ("RUN",), "sample-data": ("photographs",)}


def example_of(words: list[str]) -> str:
    """As it stands under the command's help."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.epilog.startswith("Example: viewmill ")
    return str(command.epilog).removeprefix("Example: ")


def write_images(folder: Path, count: int, seed: int) -> None:
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number // 2:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def run(*words: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert run_app(app, list(words)) == 0, words


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the examples name: images, data sets, a run, checkpoints of DeepSpeed, a recipe, a host file."""
    folder = tmp_path_factory.mktemp("examples")
    write_images(folder / "photographs" / "train", count=20, seed=0)
    write_images(folder / "photographs" / "test", count=20, seed=1)
    for name, part in (("DATASET", "train"), ("TRAIN", "train"), ("TEST", "test")):
        run("convert", str(folder / "photographs" / part), str(folder / name), "--workers", "1")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(JOB, ("0", "1", "0", "127.0.0.1", "29500", "lo"), strict=True):
            patch.setenv(name, value)
        run(
            "train",
            "distill_center",
            "--data",
            str(folder / "DATASET"),
            "--out",
            str(folder / "RUN"),
            *DISTILL,
        )
        weights = timm.create_model("resnet50", num_classes=0).state_dict()
        (folder / "CHECKPOINTS" / "global_step1").mkdir(parents=True)
        (folder / "CHECKPOINTS" / "latest").write_text("global_step1")
        torch.save(
            {"module": weights}, folder / "CHECKPOINTS" / "global_step1" / "mp_rank_00_model_states.pt"
        )
        recipe = files("viewmill.engine") / "recipes" / "hydes_tiny.yaml"
        (folder / "my_recipe.yaml").write_text(recipe.read_text(encoding="utf-8"))
        (folder / "SCRATCH").mkdir()
        (folder / "HOSTFILE").write_text("127.0.0.1 slots=1\n")
        (folder / "shell").write_text(SHELL)
        (folder / "shell").chmod(0o755)
        yield folder


def put_down(places: Path, folder: Path, names: set[str]) -> None:
    """Those places, in the folder where the example is typed; a run is copied, for reports go into it."""
    for name in names & {path.name for path in places.iterdir()}:
        if name == "RUN":
            shutil.copytree(places / name, folder / name)
        else:
            (folder / name).symlink_to(places / name)


def is_long(words: list[str]) -> bool:
    return words[0] == "bench" and words[1] in LONG


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=pytest.mark.soak if is_long(words) else (), id=" ".join(words))
        for words in LEAVES
        if " ".join(words) not in ELSEWHERE
    ],
)
def test_the_example_runs(
    words: list[str], places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = " ".join(words)
    typed, _, redirected = example_of(words).partition(" > ")
    given = shlex.split(typed)[1:] + SMALL.get(name, "").split() + SETTINGS_OF.get(name, [])
    needed = {Path(word.removeprefix("./")).parts[0] for word in given} - set(MADE.get(name, ()))
    put_down(places, tmp_path, needed)
    monkeypatch.chdir(tmp_path)
    before, printed = set(tmp_path.rglob("*")), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run_app(app, given) == 0, typed
    assert printed.getvalue().strip() or set(tmp_path.rglob("*")) > before
    for option, path in itertools.pairwise(given):
        if option in ("--out", "--html", "--png", "--plots") and words[0] != "preflight":
            assert Path(path).exists(), (option, path)
    assert not redirected or printed.getvalue().lstrip().startswith("{")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_other_examples_are_typed_by_the_tests_of_their_commands(name: str) -> None:
    module = COMMANDS[name]
    text = (Path(__file__).parent / ELSEWHERE[name]).read_text(encoding="utf-8")
    assert f"from {module.__name__} import EXAMPLE" in text
    assert "in EXAMPLE.split()" in text or "in EXAMPLE.replace(" in text
