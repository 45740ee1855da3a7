"""Tars and DALI's index of them."""

import io
import random
import tarfile
from pathlib import Path

import pytest
from viewmill.shards.containers.tar import BLOCK, Member, TarSummary, TarWriter, header_of, index_text, walk
from viewmill.shards.errors import ShardError

LONG_KEY = "folder/" + "%E4%B8%AD" * 60
FILES = {"a/b.jpg": b"x" * 1000, "a/b.cls": b"3", f"{LONG_KEY}.png": b"y" * 512, f"{LONG_KEY}.cls": b"-1"}


def written() -> tuple[bytes, TarSummary]:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for name, data in FILES.items():
        writer.add(name, data)
    summary = writer.finish()
    return buffer.getvalue(), summary


def test_any_tar_reader_finds_the_members() -> None:
    with tarfile.open(fileobj=io.BytesIO(written()[0])) as tar:
        found = {member.name: (member.mtime, member.uid, member.uname) for member in tar}
    assert found == dict.fromkeys(FILES, (0, 0, ""))


NAMES = [
    "k.jpg",
    "a/b/c.cls",
    "n" * 99,
    "n" * 100,
    "n" * 101,
    LONG_KEY,
    "K\u00e4fer.jpg",
    "\udcff.jpg",
    " x",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_headers_are_those_of_tarfile(name: str) -> None:
    for size in (0, 1, 7, 8, 511, 512, 4095, 10**6, 8**11 - 1, 8**11, 10**12):
        entry = tarfile.TarInfo(name)
        entry.size = size
        assert header_of(name, size) == entry.tobuf(tarfile.PAX_FORMAT)


def test_headers_of_any_keys_are_those_of_tarfile() -> None:
    generator = random.Random(0)
    characters = "%/-_.0123456789ABCxyz"
    for _ in range(2000):
        name = "".join(generator.choices(characters, k=generator.randint(1, 130)))
        entry = tarfile.TarInfo(name)
        entry.size = generator.randrange(8 ** generator.randint(1, 11))
        assert header_of(name, entry.size) == entry.tobuf(tarfile.PAX_FORMAT)


def test_offsets_lead_to_the_bytes() -> None:
    data, summary = written()
    assert [data[m.offset : m.offset + m.size] for m in summary.members] == list(FILES.values())
    assert summary.bytes == len(data)


def test_walking_finds_what_was_written() -> None:
    data, summary = written()
    assert list(walk(io.BytesIO(data), "s.tar")) == list(summary.members)


def test_the_index_has_a_line_for_each_sample() -> None:
    members = [Member("k.jpg", 512, 10), Member("k.cls", 1536, 1), Member("l.png", 2560, 5)]
    assert index_text(members) == "v1.2 2\njpg 512 10 k.jpg cls 1536 1 k.cls\npng 2560 5 l.png\n"


def test_the_index_is_the_one_that_dalis_own_script_makes(tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="DALI is not installed")
    data, summary = written()
    (tmp_path / "s.tar").write_bytes(data)
    with wds2idx.IndexCreator(str(tmp_path / "s.tar"), str(tmp_path / "s.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "s.idx").read_text() == index_text(summary.members)


def test_a_tar_cut_at_any_block_is_refused() -> None:
    data = written()[0]
    for end in range(0, len(data), BLOCK):
        with pytest.raises(ShardError, match=r"s\.tar: "):
            list(walk(io.BytesIO(data[:end]), "s.tar"))


def test_a_flipped_bit_anywhere_in_a_header_is_refused() -> None:
    data, summary = written()
    header = summary.members[1].offset - BLOCK
    for place in range(header, header + BLOCK):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ShardError):
            list(walk(io.BytesIO(bytes(damaged)), "s.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_regular_file_is_refused(kind: bytes) -> None:
    entry = tarfile.TarInfo("k.jpg")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with pytest.raises(ShardError, match="no regular file"):
        list(walk(io.BytesIO(entry.tobuf() + bytes(1024)), "s.tar"))


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b.jpg", "a b.jpg", "K\u00e4fer.jpg"])
def test_an_unsafe_name_is_refused(name: str) -> None:
    with pytest.raises(ShardError, match="unsafe name"):
        list(walk(io.BytesIO(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT) + bytes(1024)), "s.tar"))


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(ShardError, match="after the archive's end"):
        list(walk(io.BytesIO(written()[0] + bytes(BLOCK)), "s.tar"))
