"""Ranks: what each launcher says, and what is refused."""

import os

import pytest
import torch
import torch.distributed as dist
from viewmill.engine.agreement import RankError, from_rank_zero, gather_json, largest, raise_everywhere
from viewmill.engine.world import (
    first_host,
    pick_device,
    read_place,
    read_rendezvous,
    start_world,
    stop_world,
)

from tests.support import run_ranks


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}, (5, 6, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1, 0)),  # plain python inside a batch script
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            (1, 2, 1),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}, (1, 2, 0)),
    ],
)
def test_the_place_is_read_from_every_launcher(
    variables: dict[str, str], place: tuple[int, int, int]
) -> None:
    assert read_place(variables) == place


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_half_a_launcher_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="WORLD_SIZE"):
        read_place(variables)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}, ("10.0.0.1", 1234)),
        ({"SLURM_STEP_NODELIST": "gpu[007-009]", "SLURM_JOB_ID": "20005"}, ("gpu007", 29505)),
        ({"SLURM_STEP_NODELIST": "gpu1", "SLURM_STEP_NUM_NODES": "1"}, ("127.0.0.1", 29500)),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, ("127.0.0.1", 29500)),
    ],
)
def test_rank_zero_is_found(variables: dict[str, str], address: tuple[str, int]) -> None:
    assert read_rendezvous(variables, 2) == address


def test_an_unknown_rendezvous_names_the_variables_to_pass() -> None:
    with pytest.raises(RuntimeError, match="MASTER_ADDR and MASTER_PORT"):
        read_rendezvous({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 4)


@pytest.mark.parametrize(("nodes", "first"), [("a,b", "a"), ("a[1-3,7],b", "a1"), ("a[02,05]-ib", "a02-ib")])
def test_the_first_host_of_a_compressed_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused_and_auto_is_the_cpu() -> None:
    assert pick_device("auto", 0).type == "cpu"
    with pytest.raises(ValueError, match="pass device=cpu"):
        pick_device("cuda", 0)


def test_plain_python_is_a_world_of_one_and_ends_what_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that the end of the test puts it back
        monkeypatch.delenv(name)
    world = start_world("cpu")
    assert (world.rank, world.world_size, dist.get_world_size()) == (0, 1, 1)
    assert os.environ["WORLD_SIZE"] == "1"
    stop_world(world)
    assert not dist.is_initialized()


def agree_on_two_ranks(rank: int) -> list[object]:
    world = start_world("cpu")
    heard: list[object] = [
        gather_json(world, {"rank": rank, "text": "é" * rank}),
        largest(world, [rank, 5 - rank]),
        from_rank_zero(world, lambda: [rank, "chosen"]),
    ]
    try:
        from_rank_zero(world, lambda: 1 // rank)
    except (RankError, ZeroDivisionError) as error:
        heard.append(f"{type(error).__name__}: {error}")
    try:
        raise_everywhere(world, ValueError("bad shard") if rank == 1 else None)
    except (RankError, ValueError) as error:
        heard.append(f"{type(error).__name__}: {error}")
    stop_world(world)
    heard.append(dist.is_initialized())  # somebody else's group is left alone
    return heard


@pytest.mark.slow
def test_ranks_agree_and_fail_together() -> None:
    first, second = run_ranks(2, agree_on_two_ranks)
    common = [[{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}], [1, 5], [0, "chosen"]]
    assert first[:3] == second[:3] == common
    assert first[3] == "ZeroDivisionError: integer division or modulo by zero"
    assert second[3] == "RankError: rank 0: ZeroDivisionError: integer division or modulo by zero"
    assert first[4] == "RankError: rank 1: ValueError: bad shard"
    assert second[4] == "ValueError: bad shard"
    assert first[5]
    assert second[5]
