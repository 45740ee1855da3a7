"""Host files: what is read, and what is refused with file and line."""

from pathlib import Path

import pytest
from viewmill.tools.launch.hosts import Host, host_file, read_hosts, same_slots


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_names_slots_comments_and_empty_lines_are_read_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "# the rack\nnode-2 slots=8\n\n10.0.0.7   slots=8 # by address\nnode-1.lan\n")
    assert read_hosts(path) == [Host("node-2", 8), Host("10.0.0.7", 8), Host("node-1.lan", 1)]


def test_the_most_that_openmpi_may_give_a_host_is_read_and_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "a slots=4 max_slots=8\nb slots=4 max-slots=4\nc max_slots=2\n")
    assert read_hosts(path) == [Host("a", 4), Host("b", 4), Host("c", 1)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    hosts = read_hosts(written(tmp_path, host_file(["a", "b"], 4)))
    assert hosts == [Host("a", 4), Host("b", 4)]
    assert same_slots(hosts) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a slots=2\na slots=2\n", ":2: a stands there twice"),
        ("a slots=0\n", ":1: a has slots=0"),
        ("a slots=4 max_slots=2\n", ":1: a has slots=4, above max_slots=2"),
        ("a slots=two\n", ":1: 'a slots=two' is no host"),
        ("-oProxyCommand=touch slots=2\n", ":1: '-oProxyCommand=touch' is no name of a host"),
        ("$(touch x)\n", ":1: '$(touch x)' is no host"),
        ("a;reboot\n", ":1: 'a;reboot' is no name of a host"),
        ("user@a slots=2\n", "users and ports go into an ssh config"),
        ("# nobody\n", "no host; write a line"),
    ],
)
def test_what_is_no_host_is_refused_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hosts") as refused:
        read_hosts(written(tmp_path, text))
    assert expected in str(refused.value)


def test_hosts_of_different_sizes_need_a_number_of_ranks() -> None:
    with pytest.raises(ValueError, match="big has slots=8 and small has slots=4; pass --ranks-per-node N"):
        same_slots([Host("big", 8), Host("small", 4)])
