"""The ranks of a preflight on hosts: programs of this machine stand in for ssh and for the interpreter."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from viewmill.tools.launch.hosts import Host
from viewmill.tools.preflight.hosts import Start, report_in, run_all, starts
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight_command import on_hosts

from tests.tools.launch.test_supervisor import WAIT_S, until

# As sshd does it gives the words to a shell, which splits them again and knows nothing of the caller's. Each
# login is noted.
SSH = """#!/bin/sh
echo "$1" >>"{folder}/logins"
shift
exec env -i "PATH=$PATH" LC_ALL=C.UTF-8 sh -c "$*"
"""
# A rank: its variables and words go into a file; NCCL speaks on stdout too.
RANK = """#!/bin/bash
env -0 >"{folder}/env-$RANK"
printf '%s\\0' "$@" >"{folder}/words-$RANK"
echo "warning of $RANK" >&2
[ "$RANK" != 0 ] || printf 'NCCL version 2.27\\n{{ is no report\\n{{\\n  "verdicts": []\\n}}\\nNCCL ends\\n'
"""
HOSTS = [Host("10.0.0.1", 2), Host("b", 1)]


def program(path: Path, text: str) -> str:
    path.write_text(text.format(folder=path.parent))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., list[Start]]:
    def start(rank: str, words: Sequence[str] = (), **env: str) -> list[Start]:
        ssh, python = program(tmp_path / "ssh", SSH), program(tmp_path / "a python", rank)
        return starts(HOSTS, words, ssh=[ssh], python=python, port=1234, env=env)

    return start


def of_rank(folder: Path, rank: int) -> tuple[dict[str, str], list[str]]:
    """Its variables and words."""
    env = (folder / f"env-{rank}").read_text(encoding="utf-8").split("\0")[:-1]
    return dict(line.split("=", 1) for line in env), (folder / f"words-{rank}").read_text().split("\0")[:-1]


def test_one_login_a_host_starts_its_ranks_each_with_its_place(
    start: Callable[..., list[Start]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_all(start(RANK, ["--out", "a $b"], NCCL_DEBUG="é 'x'\ny"), WAIT_S) == {"verdicts": []}
    assert sorted((tmp_path / "logins").read_text().split()) == ["10.0.0.1", "b"]
    for rank, (local_rank, host) in enumerate([("0", 0), ("1", 0), ("0", 1)]):
        env, words = of_rank(tmp_path, rank)
        assert (env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) == (str(rank), local_rank, "3"), host
        assert (env["MASTER_ADDR"], env["MASTER_PORT"], env["NCCL_DEBUG"]) == ("10.0.0.1", "1234", "é 'x'\ny")
        assert words == ["-m", "viewmill.tools.preflight_command", "--out", "a $b"]
    assert "warning" not in capfd.readouterr().err  # said by ranks that came: of no use


def test_without_a_report_the_last_words_of_ranks_and_hosts_are_told(
    start: Callable[..., list[Start]], tmp_path: Path
) -> None:
    wanted = start("#!/bin/sh\necho first >&2; echo rank $RANK: no port >&2; exit 1\n")
    (tmp_path / "ssh").write_text(
        '#!/bin/sh\n[ "$1" = b ] && { echo refused >&2; exit 255; }\nshift; sh -c "$*"'
    )
    with pytest.raises(RuntimeError, match="rank 0 made no report; ") as refused:
        run_all(wanted, WAIT_S)
    told = str(refused.value).partition("; ")[2].split("; ")
    assert sorted(told) == ["b: refused", "rank 0: rank 0: no port", "rank 1: rank 1: no port"]


def test_ranks_that_stay_too_long_are_ended(start: Callable[..., list[Start]], tmp_path: Path) -> None:
    wanted = start('#!/bin/sh\necho $$ >"{folder}/pid-$RANK"; setsid sleep 600\n')
    with pytest.raises(RuntimeError, match="no report"):
        run_all(wanted, 3.0)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 3
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_ranks_are_given_what_launch_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another transport would be measured than trains."""
    for name in [name for name in os.environ if name.startswith("OMP_")]:
        monkeypatch.delenv(name)
    shell = {"NCCL_IB_HCA": "mlx5", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISTRIBUTED_DEBUG": "OFF"}
    shell |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "1,0", "TOKEN": "x", "TMPDIR": str(tmp_path)}
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "hosts").write_text("h slots=1\n")
    ssh, python = program(tmp_path / "shell", SSH), program(tmp_path / "python", RANK)
    given = ["NCCL_DEBUG=WARN"]
    on_hosts(tmp_path / "hosts", Options(), ssh=[ssh], python=python, port=1234, given=given)
    env, _ = of_rank(tmp_path, 0)
    asked = [name for name in shell if name not in ("TOKEN", "TMPDIR")]
    assert {name: shell[name] for name in asked}.items() <= env.items()
    assert (env["NCCL_DEBUG"], env["OMP_NUM_THREADS"]) == ("WARN", "1")
    assert not {"TOKEN", "TMPDIR"} & set(env)


def test_a_report_is_found_among_what_else_was_printed() -> None:
    assert report_in('x {\n{"a": 1}\n{\n "verdicts": [1]\n}{') == {"verdicts": [1]}
    assert report_in('{"verdicts": [') is None
