"""Remakes a constraints file: names, versions and hashes of what pip would install on this machine.

    python .ci/lock.py constraints.txt '.[dev]' pip
    python .ci/lock.py constraints-ffcv.txt ffcv --beside constraints.txt

What a file pins already stays, unless --upgrade. The hashes are those of this platform's files (Linux,
x86-64, Python 3.11); where a version is unchanged, the hashes that are there are kept.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^ ]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)


def entries_of(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by normalised name; empty where there is no file."""
    text = path.read_text() if path.exists() else ""
    return {
        _normal(name): (version, re.findall(r"sha256:([0-9a-f]{64})", hashes))
        for name, version, hashes in _ENTRY.findall(text)
    }


def resolved(wanted: list[str], pins: dict[str, str]) -> dict[str, tuple[str, list[str]]]:
    """What pip would install for these requirements, given pinned versions."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        command += ["--no-build-isolation", "--report", str(report), "-c", str(constraints), *wanted]
        subprocess.run(command, check=True)
        installs = json.loads(report.read_text())["install"]
    found = {}
    for item in installs:
        archive = item["download_info"].get("archive_info")
        if archive is not None:  # a folder, such as the project itself, has none
            name, version = item["metadata"]["name"], item["metadata"]["version"]
            found[_normal(name)] = (version, [archive["hashes"]["sha256"]])
    return found


def text_of(head: str, entries: dict[str, tuple[str, list[str]]]) -> str:
    """The file: a line of comment, then the entries by name."""
    lines = [head]
    for name, (version, hashes) in sorted(entries.items()):
        shown = " \\\n".join(f"    --hash=sha256:{value}" for value in hashes)
        lines.append(f"{name}=={version} \\\n{shown}")
    return "\n".join(lines) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("wanted", nargs="+")
    parser.add_argument("--beside", type=Path, help="a file whose versions hold, and which is not repeated")
    parser.add_argument("--upgrade", action="store_true", help="the newest versions")
    options = parser.parse_args()
    beside = entries_of(options.beside) if options.beside else {}
    before = {} if options.upgrade else entries_of(options.file)
    pins = {name: version for name, (version, _) in {**before, **beside}.items()}
    found = resolved(options.wanted, pins)
    kept = {
        name: before[name] if name in before and before[name][0] == entry[0] else entry
        for name, entry in found.items()
        if name not in beside
    }
    head = "# Names, versions, hashes for Python 3.11 on Linux; remade by .ci/lock.py, see there."
    options.file.write_text(text_of(head, kept))
    print(f"{options.file}: {len(kept)} packages")


if __name__ == "__main__":
    main()
