"""A run that is killed and resumed on other numbers of ranks reads what a run that never stopped reads."""

import json
import random

import numpy as np
import pytest
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.positions import positions_of_micro_batch
from viewmill.pipelines.passes import ids_of_rank, read_once

from tests.pipelines.orders.simulated_ranks import (
    KINDS,
    SPEC,
    Job,
    Numbers,
    fed_with_plans,
    order_of,
    planned,
    show_plans,
)

EPOCHS = 3


@pytest.fixture(autouse=True)
def plans_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    show_plans(monkeypatch)


def survive(order: Order, batch_size: int, worlds: list[int], seed: int) -> list[int]:
    """Trains `EPOCHS` epochs through kills; every step must be the planned one. Returns the worlds it ran on.

    After a kill the run goes on from its last checkpoint, which may be some steps back: those are done again.
    """
    chance = random.Random(seed)
    ids, plans = planned(order, batch_size, EPOCHS)
    done, saved, state, ran = 0, 0, None, []
    while done < len(ids):
        world_size = worlds[len(ran)] if len(ran) < len(worlds) else chance.choice(worlds)
        ran.append(world_size)
        job = Job(order, batch_size, world_size, state)
        done = saved
        for _ in range(chance.randint(1, 4)):
            step, step_ids, step_plans = job.step()
            assert step == done
            np.testing.assert_array_equal(step_ids, ids[step])
            np.testing.assert_array_equal(step_plans, plans[step])
            done += 1
            if chance.random() < 0.6 or done == len(ids):
                states = {json.dumps(job.state(rank)) for rank in range(world_size)}
                assert len(states) == 1
                saved, state = done, json.loads(states.pop())
            if done == len(ids):
                break
        job.kill()
    return ran


@pytest.mark.parametrize("kind", KINDS)
def test_kills_and_resumes_on_other_worlds_change_no_id_and_no_plan(kind: str) -> None:
    ran = survive(order_of(kind, 600), batch_size=96, worlds=[1, 2, 3, 4, 8, 32], seed=0)
    assert len(set(ran)) >= 4


@pytest.mark.parametrize("kind", ["samples", "mixture"])
def test_a_thousand_ranks_read_the_global_batch_of_a_billion_samples(kind: str) -> None:
    order = order_of(kind, 10**9)
    step = order.num_samples // 3072 - 1
    whole = order.ids(7, step * 3072, (step + 1) * 3072)
    shares = [
        positions_of_micro_batch(step, 0, rank, global_batch=3072, accumulation=1, world_size=1024)
        for rank in range(1024)
    ]
    pieces = [order.ids(7, share.start, share.stop) for share in shares]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert {len(piece) for piece in pieces} == {3}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_elastic_drill_over_many_kills_and_worlds(kind: str, seed: int) -> None:
    worlds = [1, 2, 3, 4, 8, 64, 1024]
    random.Random(seed).shuffle(worlds)
    ran = survive(order_of(kind, 20_000), batch_size=3072, worlds=worlds, seed=seed)
    assert set(ran) >= set(worlds)


@pytest.mark.parametrize("kind", ["samples", "blocks", "subset"])
def test_over_an_epoch_no_sample_is_lost_or_repeated(kind: str) -> None:
    order = order_of(kind, 643)
    ids, _ = planned(order, batch_size=32, epochs=EPOCHS)
    members = set(order.ids(0, 0, order.num_samples).tolist())
    for epoch in ids.reshape(EPOCHS, -1):
        assert len(set(epoch.tolist())) == len(epoch) == order.num_samples // 32 * 32
        assert set(epoch.tolist()) <= members


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 64, 1024])
@pytest.mark.parametrize("num_samples", [0, 1, 63, 1024, 5003])
def test_a_pass_gives_every_place_once_on_any_number_of_ranks(num_samples: int, world_size: int) -> None:
    shares = [ids_of_rank(num_samples, rank, world_size) for rank in range(world_size)]
    assert [place for share in shares for place in share] == list(range(num_samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_a_pass_over_a_subset_reads_each_member_once(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewmill.pipelines import passes

    monkeypatch.setattr(passes, "fed_executor", fed_with_plans)
    members = np.flatnonzero(np.arange(50) % 7 == 0)
    batches = [
        batch
        for rank in range(world_size)
        for batch in read_once(Numbers(50), SPEC, 2, rank=rank, world_size=world_size, ids=members[::-1])
    ]
    assert np.concatenate([batch.ids for batch in batches]).tolist() == members.tolist()
    whole = next(iter(read_once(Numbers(50), SPEC, 50)))
    views = np.concatenate([batch.views[0] for batch in batches])
    np.testing.assert_array_equal(views, whole.views[0][members])  # those of a pass over all


def test_a_pass_over_ids_that_are_no_subset_is_refused() -> None:
    with pytest.raises(ValueError, match="id 3 stands twice"):
        read_once(Numbers(50), SPEC, 2, ids=[3, 3])
    with pytest.raises(ValueError, match="id 50 of the subset is not in a data set of 50"):
        read_once(Numbers(50), SPEC, 2, ids=[50])
