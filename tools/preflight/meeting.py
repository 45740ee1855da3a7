"""Where the ranks leave their facts for rank 0: a key-value store, so that nobody waits for the missing."""

import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from viewmill.engine.world import publish_place, read_place, read_rendezvous

_POLL_S = 0.02
_ASKS = "viewmill-round-asks"


class Meeting:
    """One rank's way to the others. Waiting ends at a stated time, with those who came.

    Attributes:
        store: what is said in this round; of_job: the one beneath, which lasts as long as the launcher
            listens, or rank 0 lives.
        round: a name of this start of all ranks, the same on all of them and of no other start.
    """

    def __init__(self, of_job: Any, rank: int, world_size: int, local_rank: int, round: str = "0") -> None:
        self.store = dist.PrefixStore(f"viewmill-preflight-{round}", of_job)  # type: ignore[attr-defined]
        self.of_job = of_job
        self.round = round
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank

    def tell(self, what: str, facts: Mapping[str, Any]) -> None:
        """Leaves JSON-able facts for rank 0."""
        self.store.set(f"{what}/{self.rank}", json.dumps(facts))

    def hear(self, what: str, ranks: Iterable[int], until_s: float) -> dict[int, dict[str, Any]]:
        """The facts of those ranks that told them until then, by `time.monotonic`."""
        missing = list(ranks)
        found: dict[int, dict[str, Any]] = {}
        while missing:
            for rank in [one for one in missing if self.store.check([f"{what}/{one}"])]:
                found[rank] = json.loads(self.store.get(f"{what}/{rank}"))
                missing.remove(rank)
            if time.monotonic() >= until_s:
                break
            time.sleep(_POLL_S)
        return dict(sorted(found.items()))

    def announce(self, what: str, value: Mapping[str, Any]) -> None:
        """Says something to all; rank 0 does."""
        self.store.set(what, json.dumps(value))

    def listen(self, what: str, patience_s: float) -> dict[str, Any]:
        """What rank 0 announces.

        Raises:
            RuntimeError: it does not, for so long.
        """
        try:
            self.store.wait([what], timedelta(seconds=patience_s))
            found: dict[str, Any] = json.loads(self.store.get(what))
        except (RuntimeError, dist.DistError) as error:
            raise RuntimeError(
                f"rank {self.rank} waited {patience_s:.0f} s for rank 0 to announce '{what}'; see what rank "
                "0 printed, or why it ended"
            ) from error
        return found


def open_meeting(patience_s: float) -> Meeting:
    """Joins the job that the launcher's variables describe; alone without one. See `engine.world`.

    Rank 0 does not wait here for the others.

    Raises:
        RuntimeError: rank 0 does not answer for so long, or nothing says where it listens.
    """
    rank, world_size, local_rank = read_place(os.environ)
    address, port = read_rendezvous(os.environ, world_size)
    publish_place(rank, world_size, local_rank, address, port)
    if world_size == 1:  # nothing listens
        return Meeting(dist.HashStore(), rank, world_size, local_rank)  # type: ignore[attr-defined]
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun listens there already
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            is_master=rank == 0 and not agents,
            timeout=timedelta(seconds=patience_s),
            wait_for_workers=False,
        )
    except (RuntimeError, dist.DistError) as error:
        what = "cannot listen" if rank == 0 and not agents else "is not answered"
        raise RuntimeError(
            f"rank {rank} {what} at {address}:{port} ({str(error).splitlines()[0]:.200}); start rank 0 as "
            "well, give a free MASTER_PORT, and let the port through the firewall"
        ) from error
    # Without agents the store is rank 0's own, and begins and ends with it.
    name = agreed_round(store, rank, world_size, patience_s) if agents else "0"
    return Meeting(store, rank, world_size, local_rank, name)


def agreed_round(store: Any, rank: int, world_size: int, patience_s: float) -> str:
    """A name that rank 0 makes up, given to the ranks that ask for it in time.

    The store of torchrun's agents outlives the ranks, and so does what an earlier start left there. Its count
    of restarts tells no starts apart: each agent counts the failures that it saw itself, so one that has
    replaced a lost host begins at 0, beside others at 1.

    Raises:
        RuntimeError: rank 0 gives none, for twice so long.
    """
    if rank == 0:
        return _given_round(store, range(1, world_size), time.monotonic() + patience_s)
    ask = uuid.uuid4().hex  # so that no answer to an earlier start is taken for that of this one
    store.set(f"{_ASKS}/{rank}", ask)
    try:
        store.wait([f"{_ASKS}/{ask}"], timedelta(seconds=2 * patience_s))
    except (RuntimeError, dist.DistError) as error:
        raise RuntimeError(
            f"rank {rank} waited {2 * patience_s:.0f} s for rank 0 to name this start; see what rank 0 "
            "printed, or why it ended"
        ) from error
    name: str = store.get(f"{_ASKS}/{ask}").decode()
    store.set(f"{_ASKS}/{name}/{rank}", "heard")
    return name


def _given_round(store: Any, ranks: Iterable[int], until_s: float) -> str:
    """Answers until all have heard; an ask of an earlier start is answered in vain, and asked again."""
    name, missing = uuid.uuid4().hex, list(ranks)
    while missing and time.monotonic() < until_s:
        for rank in [one for one in missing if store.check([f"{_ASKS}/{one}"])]:
            store.set(f"{_ASKS}/{store.get(f'{_ASKS}/{rank}').decode()}", name)
        missing = [one for one in missing if not store.check([f"{_ASKS}/{name}/{one}"])]
        time.sleep(_POLL_S)
    return name
