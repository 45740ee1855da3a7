"""What is built from the repository is the five rooms, whole, and runs where nothing else is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("engine", "methods", "pipelines", "shards", "tools")

pytestmark = pytest.mark.slow


def tracked() -> list[str]:
    """The files of the repository, as git knows them."""
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # A file removed in the working tree is still listed until that is committed.
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files, so that nothing untracked gets in."""
    if not (ROOT / ".git").exists():
        pytest.skip("compares the wheel with git ls-files, and this is no git checkout")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return target


def run_there(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in another folder, with the installed wheel ahead of everything else."""
    variables = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_files_of_the_five_rooms_and_no_other(wheel: Path) -> None:
    expected = {f"viewmill/{name}" for name in tracked() if name.split("/")[0] in ROOMS}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    # Stored results of benchmarks belong to the repository, not to an installation.
    expected = {name for name in expected if not name.startswith("viewmill/tools/bench/results/")}
    assert found == expected


def test_the_wheel_carries_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
    assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_installed_command_runs_from_there(installed: Path) -> None:
    shown = run_there(installed, "-m", "viewmill.tools.cli", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Usage:" in shown.stdout
    where = run_there(installed, "-c", "import viewmill.tools.cli as cli; print(cli.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed)


def test_recipes_are_found_in_the_installed_package(installed: Path) -> None:
    shown = run_there(installed, "-m", "viewmill.tools.cli", "config", "validate", "hydes_tiny")
    assert (shown.returncode, shown.stdout) == (0, "hydes_tiny: valid\n")
    shown = run_there(installed, "-m", "viewmill.tools.cli", "config", "validate", "hydes_stl10_kappa_10")
    assert (shown.returncode, shown.stdout) == (0, "hydes_stl10_kappa_10: valid\n")


def test_no_room_can_be_imported_by_its_bare_name(installed: Path) -> None:
    program = f"import importlib.util as u; print([r for r in {ROOMS} if u.find_spec(r)])"
    assert run_there(installed, "-c", program).stdout == "[]\n"
