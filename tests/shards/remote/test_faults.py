"""A network that fails: for a moment nobody notices, for long the conversion ends and goes on later."""

from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import StorageError
from viewmill.shards.storage.retry import Patience, persistently

from tests.shards.pictures import tree_hashes, write_tree
from tests.shards.remote.faulty_proxy import FAULTS, FaultyProxy
from tests.shards.remote.servers import upload

SHARD_BYTES = 6000  # several shards


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("local") / "tree", num_classes=2, per_class=3)


@pytest.fixture(scope="module")
def remote(local: Path, shared_proxy: FaultyProxy) -> str:
    return upload(shared_proxy.upstream_port, local, "faults")


@pytest.fixture(scope="module")
def expected(local: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected") / "out"
    convert(local, out, shard_bytes=SHARD_BYTES)
    return tree_hashes(out)


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_moment_changes_no_byte(
    fault: str, ranged: bool, remote: str, expected: dict[str, str], tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.begin(fault, requests=3, ranged=ranged)
    convert(remote, tmp_path / "out", shard_bytes=SHARD_BYTES)
    assert proxy.trouble.left == 0
    assert tree_hashes(tmp_path / "out") == expected


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_ends_in_one_line_and_the_conversion_goes_on_later(
    fault: str, remote: str, expected: dict[str, str], tmp_path: Path, proxy: FaultyProxy
) -> None:
    shards = 0

    def spoil_after_some(_: object) -> None:
        nonlocal shards
        shards += 1
        if shards == 5:
            proxy.begin(fault, ranged=True)

    with pytest.raises(
        StorageError, match=r"^s3://pictures/faults/class_\d/.*: no good answer in 4 tries"
    ) as found:
        convert(remote, tmp_path / "out", shard_bytes=SHARD_BYTES, progress=spoil_after_some)
    assert "\n" not in str(found.value)
    assert list((tmp_path / "out" / ".convert").glob("*.json"))  # finished shards are kept
    proxy.heal()
    report = convert(remote, tmp_path / "out", shard_bytes=SHARD_BYTES)
    assert (
        set(report.reasons) == {"no image", "JPEG header cannot be read"}
        or "unreadable" not in report.reasons
    )
    assert tree_hashes(tmp_path / "out") == expected


def test_a_store_that_is_gone_while_the_plan_is_made_leaves_nothing(
    remote: str, tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.begin("reset")
    with pytest.raises(StorageError, match="s3://pictures/faults"):
        convert(remote, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_signature_is_not_told() -> None:
    def attempt() -> None:
        raise PermissionError("403, url='https://host/x.tar?signature=secret'")

    with pytest.raises(StorageError, match=r"https://host/x\.tar'") as found:
        persistently("https://host/x.tar", attempt, Patience())
    assert "secret" not in str(found.value)


def test_waits_double_up_to_the_longest() -> None:
    patience = Patience(tries=5, first_wait_s=1, longest_wait_s=3)
    assert list(patience.waits_s()) == [1, 2, 3, 3]


@pytest.mark.parametrize("error", [PermissionError("no"), ValueError("bad address")])
def test_what_cannot_pass_is_not_tried_again(error: Exception) -> None:
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise error

    with pytest.raises(StorageError, match="s3://x: refused"):
        persistently("s3://x", attempt, Patience())
    assert len(calls) == 1
