"""What every target would write and run: words that arrive as they were given, in scripts that bash reads."""

import itertools
import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.launch.explained import explanation, places, plan
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.start import read_written, write_files
from viewmill.tools.launch.targets import TARGETS, options_of
from viewmill.tools.launch.written import Written

# What a shell would take for something else, were it not quoted.
NASTY = ["name=a b", 'double="x"', "single='x'", "money=$HOME `id`", "end=;reboot", "star=*", "line=a\nb"]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hostfile"
    path.write_text("h2 slots=2\nh1 slots=2\n")
    return path


def job_in(folder: Path, **changes: Any) -> Job:
    """A job whose interpreter is a script that prints its words."""
    python = folder / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\nprintf "%s\\0" "$SECRET"\n')
    python.chmod(0o755)
    standard = Job(recipe="hydes_tiny", data="/data", out=str(folder / "run"), python=str(python))
    return replace(standard, **changes)


def write(target: str, job: Job, **options: Any) -> Written:
    return TARGETS[target].write(job, options_of(target, options))


def every_target(job: Job, hosts: Path) -> dict[str, Written]:
    here, there = replace(job, nodes=1), replace(job, nodes=2, ranks_per_node=2)
    return {
        "local": write("local", here),
        "ssh": write("ssh", there, hosts=str(hosts)),
        "deepspeed": write("ssh", there, hosts=str(hosts), launcher="deepspeed"),
        "mpi": write("mpi", here),
        "mpi on hosts": write("mpi", there, hosts=str(hosts)),
    }


def printed(script: Path, *words: str, **variables: str) -> list[str]:
    """The words that a script gives to its interpreter."""
    done = subprocess.run(
        ["bash", str(script), *words],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", **variables},
    )
    return done.stdout.decode().split("\0")[:-1]


def test_every_script_is_one_that_bash_reads(tmp_path: Path, hosts: Path) -> None:
    for written in every_target(job_in(tmp_path, env={"SECRET": "a'b"}), hosts).values():
        assert {"lease.sh"} < set(written.files)
        for name, text in written.files.items():
            if name.endswith(".sh"):
                done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
                assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.parametrize("target", ["local", "ssh", "deepspeed", "mpi"])
def test_words_and_variables_reach_the_ranks_as_they_were_given(
    target: str, tmp_path: Path, hosts: Path
) -> None:
    job = job_in(tmp_path, overrides=tuple(NASTY), env={"SECRET": "\n".join(NASTY)}, data="/a b/$data")
    write_files(every_target(job, hosts)[target], Path(job.out), "python3")
    script = Path(job.out) / "launch" / ("ranks.sh" if target in ("local", "ssh") else "rank.sh")
    ompi = {f"OMPI_COMM_WORLD_{name}": "0" for name in ("RANK", "SIZE", "LOCAL_RANK")}
    words = printed(script, *(["1"] if target == "ssh" else []), **ompi)
    start = words.index("viewmill.tools.train")
    assert words[start:] == ["viewmill.tools.train", *job.train_arguments(), "\n".join(NASTY)]


def test_a_host_of_torchrun_knows_its_place_its_name_and_the_first(tmp_path: Path, hosts: Path) -> None:
    job = job_in(tmp_path, nodes=2, ranks_per_node=2, port=31000)
    written = write("ssh", job, hosts=str(hosts))
    assert written.hosts == ["h1", "h2"]  # as torchrun orders them
    assert [shlex.split(command.argv[-1])[-1] for command in written.commands] == ["0", "1"]
    assert [command.argv[-2] for command in written.commands] == ["h1", "h2"]
    folder = write_files(written, Path(job.out), "python3")
    for node, name in enumerate(written.hosts):
        words = printed(folder / "ranks.sh", str(node))
        said = dict(itertools.pairwise(words))
        assert said["--local-addr"] == name
        assert said["--rdzv-endpoint"] == "h1:31000"
        assert said["--rdzv-conf"] == f"is_host={1 - node}"
        assert (said["--nnodes"], said["--nproc-per-node"]) == ("2", "2")


def test_a_rank_of_mpirun_has_the_names_that_torch_reads(tmp_path: Path) -> None:
    job = job_in(tmp_path, ranks_per_node=4, port=31000)
    written = write("mpi", job)
    folder = write_files(written, Path(job.out), "python3")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    (tmp_path / "python").write_text(f"#!/bin/sh\nprintf '%s\\0' {' '.join(f'${name}' for name in names)}\n")
    ompi = {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "1"}
    told = printed(folder / "rank.sh", **{f"OMPI_COMM_WORLD_{name}": value for name, value in ompi.items()})
    assert told == ["3", "4", "1", "127.0.0.1", "31000"]
    assert "-np 4" in written.files["mpi.sh"]


def test_a_host_is_asked_for_all_that_its_ranks_read(tmp_path: Path, hosts: Path) -> None:
    read = {"data": "data set", "judged_on": "judge set", "recipe": "recipe"}
    paths = {name: tmp_path / f"the {what}" for name, what in read.items()}
    for path in paths.values():
        path.mkdir()
    job = job_in(tmp_path, nodes=2, **{name: str(path) for name, path in paths.items()})
    folder = write_files(write("ssh", job, hosts=str(hosts)), Path(job.out), "python3")

    def check() -> tuple[int, str]:
        words = ["bash", str(folder / "check.sh"), "h2"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert "same path" not in check()[1]
    for name, what in read.items():
        paths[name].rmdir()
        assert check() == (1, f"no {paths[name]}; give every host the {what} at this path\n")
        paths[name].mkdir()
    urls = replace(job, data="s3://b/d", judged_on="s3://b/t", recipe="hydes_tiny")
    assert "same path" not in write("ssh", urls, hosts=str(hosts)).files["check.sh"]


def test_ssh_asks_nothing_and_notices_a_dead_host(tmp_path: Path, hosts: Path) -> None:
    written = write("ssh", job_in(tmp_path, nodes=2), hosts=str(hosts), silence_s=9, ssh_config="/etc/c")
    for command in [*written.commands, *written.checks]:
        for word in ("BatchMode=yes", "ServerAliveInterval=3", "ServerAliveCountMax=3", "/etc/c"):
            assert word in command.argv
    assert "patience=9 " in written.files["lease.sh"]


def test_the_plan_names_every_rank_with_host_and_device(tmp_path: Path, hosts: Path) -> None:
    job = job_in(tmp_path, nodes=2, ranks_per_node=2, env={"NCCL_DEBUG": "INFO"})
    written = write("ssh", job, hosts=str(hosts), launcher="deepspeed")
    made = plan(job, written, "cuda")
    assert [tuple(rank.values()) for rank in made["ranks"]] == [
        (0, "h2", 0, "cuda:0"),
        (1, "h2", 1, "cuda:1"),
        (2, "h1", 0, "cuda:0"),
        (3, "h1", 1, "cuda:1"),
    ]
    assert json.loads(json.dumps(made)) == made
    text = explanation(job, written, "cuda")
    for expected in ("NCCL_DEBUG=INFO", "rank 3: h1, local rank 1, cuda:1", "deepspeed.launcher.runner"):
        assert expected in text


def test_ranks_of_hosts_that_are_not_known_yet_have_numbers(tmp_path: Path) -> None:
    found = places(job_in(tmp_path, nodes=2), [], "cpu")
    assert [(place.rank, place.host, place.device) for place in found] == [
        (0, "node 0", "cpu"),
        (1, "node 1", "cpu"),
    ]


def test_what_was_written_is_read_again(tmp_path: Path, hosts: Path) -> None:
    job = job_in(tmp_path, nodes=2)
    written = write("ssh", job, hosts=str(hosts))
    folder = write_files(written, Path(job.out), "python3")
    assert read_written(folder) == replace(written, files={}, variables=[])
    assert "viewmill.tools.launch.start" in (folder / "launch.sh").read_text()


@pytest.mark.parametrize(
    ("target", "changes", "options", "expected"),
    [
        ("local", {"nodes": 2}, {}, "--on local is this machine alone"),
        ("ssh", {}, {}, "pass --hosts FILE"),
        ("ssh", {"nodes": 3}, {"hosts": "{hosts}"}, "has 2 hosts, --nodes asks for 3"),
        ("ssh", {"ranks_per_node": 4}, {"hosts": "{hosts}"}, "h2 has slots=2, for 4 ranks"),
        ("ssh", {}, {"hosts": "{hosts}", "ssh_config": "/a b"}, "holds a space"),
        ("ssh", {}, {"hosts": "{hosts}", "silence_s": 1}, "silence_s must be at least 3"),
        ("ssh", {"max_restarts": 1}, {"hosts": "{hosts}", "launcher": "deepspeed"}, "starts nothing again"),
        ("ssh", {"out": "/a;b"}, {"hosts": "{hosts}", "launcher": "deepspeed"}, "does not quote"),
        (
            "ssh",
            {},
            {"hosts": "{hosts}", "launcher": "pdsh"},
            "launcher: Input should be 'torchrun' or 'deep",
        ),
        ("ssh", {}, {"hots": "x"}, "hots is no option of --on ssh; the nearest is hosts"),
        ("local", {}, {"hosts": "x"}, "hosts is no option of --on local; it has none"),
        ("slurm", {}, {"srun": "--mpi=none"}, "srun is a list; pass --option 'srun=[--mpi=none]'"),
        ("slurm", {}, {"srun": "--x=a, b"}, """srun is a list; pass --option 'srun=['"'"'--x=a, b'"'"']'"""),
        ("mpi", {"nodes": 2}, {}, "--nodes 2 without hosts"),
        ("mpi", {"max_restarts": 1}, {}, "mpirun starts nothing again"),
        ("local", {"env": {"A B": "x"}}, {}, "'A B' is no name of a variable"),
    ],
)
def test_what_a_target_cannot_do_is_refused_before_anything_is_written(
    target: str, changes: dict[str, Any], options: dict[str, Any], expected: str, tmp_path: Path, hosts: Path
) -> None:
    given = {name: str(hosts) if value == "{hosts}" else value for name, value in options.items()}
    with pytest.raises(ValueError) as refused:
        write(target, job_in(tmp_path, **changes), **given)
    assert expected in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_restarted_ranks_always_resume(tmp_path: Path) -> None:
    assert "--resume" in job_in(tmp_path, max_restarts=2).train_arguments()
    assert "--resume" not in job_in(tmp_path).train_arguments()


@pytest.mark.parametrize("changes", [{"nodes": 0}, {"ranks_per_node": 0}, {"max_restarts": -1}, {"port": 80}])
def test_counts_and_ports_out_of_range_are_refused(changes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        job_in(tmp_path, **changes)
