"""Small tars of other writers: Python's in each format, GNU tar's, webdataset's, img2dataset's layout."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.shards.pictures import encoded, picture

JPEGS = [encoded(picture(number, 20 + number, 24), "JPEG") for number in range(8)]
CMYK = encoded(Image.fromarray(picture(9)).convert("CMYK"), "JPEG")
ALPHA = encoded(Image.fromarray(np.dstack([picture(3), picture(4)[:, :, 0]]), "RGBA"), "PNG")
LONG = "n" * 140


def write_tar(path: Path, members: dict[str, bytes], file_format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar by Python's tarfile."""
    with tarfile.open(path, "w", format=file_format) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_foreign_tars(folder: Path) -> Path:
    """Three tars: nine inputs, six samples of classes 0 to 2; a tar in GNU's, one in PAX format, and one of
    img2dataset's layout with pictures that no conversion would keep as they are."""
    folder.mkdir(parents=True)
    gnu = {
        f"./cat/{LONG}.jpg": JPEGS[0], f"./cat/{LONG}.cls": b"2",
        "dog/1.JPEG": JPEGS[1], "dog/1.cls": b"0", "dog/1.json": b"{}",
    }  # fmt: skip
    write_tar(folder / "a-0.tar", gnu, tarfile.GNU_FORMAT)
    pax = {f"käfer/{LONG}é.jpg": JPEGS[2], f"käfer/{LONG}é.cls": b"1", "two words.jpg": JPEGS[3]}
    write_tar(folder / "b.1.tar", pax, tarfile.PAX_FORMAT)
    img2dataset = {
        "000.jpg": JPEGS[4], "000.txt": b"a caption", "000.json": json.dumps({"key": "000"}).encode(),
        "001.jpg": CMYK, "001.txt": b"inks",
        "002.jpg": JPEGS[5], "002.txt": b"another",
        "003.png": ALPHA, "004.jpg": JPEGS[6][:200], "README": b"no image",
    }  # fmt: skip
    write_tar(folder / "c.tar", img2dataset, tarfile.USTAR_FORMAT)
    (folder / "c_stats.json").write_text("{}")  # img2dataset leaves its own beside
    return folder


def write_by_gnu_tar(path: Path, folder: Path) -> Path:
    """A tar of GNU tar: folders, './' before names, long names."""
    program = shutil.which("tar")
    assert program is not None, "GNU tar is part of every Linux"
    tree = folder / "tree"
    (tree / "cat").mkdir(parents=True)
    for number, name in enumerate((LONG, "b", "c d")):
        (tree / "cat" / f"{name}.jpg").write_bytes(JPEGS[number])
        (tree / "cat" / f"{name}.cls").write_text(str(number))
    subprocess.run([program, "-cf", path, "--sort=name", "-C", tree, "."], check=True)
    return path
