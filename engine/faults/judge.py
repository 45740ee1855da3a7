"""Whether a rank has waited too long, and for whom: a function of what is known, without clocks."""

from collections.abc import Sequence
from typing import NamedTuple

from viewmill.engine.faults.heartbeat import Peer
from viewmill.engine.faults.limits import FaultsConfig
from viewmill.engine.faults.pulse import Phase, Place

LOST_RANK, HUNG_COLLECTIVE, HUNG_DATA, HUNG = "lost rank", "hung collective", "hung data worker", "hung"


class Finding(NamedTuple):
    """What is wrong, and with whom; no culprits: this rank itself."""

    kind: str
    cause: str
    culprits: tuple[Peer, ...]


def judge(
    place: Place, waited_s: float, peers: Sequence[Peer], limits: FaultsConfig, longest_s: float = 0.0
) -> Finding | None:
    """What is wrong with a rank that has been in this place for `waited_s`; None: nothing yet.

    Args:
        peers: the other ranks, as seen lately; empty while there was no reason to look.
        longest_s: that such a phase has taken in this session.
    """
    if place.phase is Phase.END:
        return None
    lost = [peer for peer in peers if _is_lost(peer, limits)]
    if lost and waited_s >= limits.silent_s and place.phase is not Phase.DATA:  # data waits for no rank
        return Finding(LOST_RANK, lost_ranks(lost), tuple(lost))
    if waited_s < limits.of(place, longest_s):
        return None
    where = f"step {place.step}: {waited_s:.0f} s in {place.phase.value}"
    if place.phase is Phase.DATA:
        return Finding(HUNG_DATA, f"{where}: no batch came; a worker or the storage hangs", ())
    behind = tuple(peer for peer in peers if peer.entry < place.entry)
    if behind:
        names = ", ".join(f"rank {peer.rank} {peer.where}" for peer in behind)
        return Finding(HUNG_COLLECTIVE, f"{where}: others wait, and {names} did not come", behind)
    if peers and place.phase is Phase.MEETING:
        return Finding(HUNG_COLLECTIVE, f"{where}, and so are all ranks: the network does not carry it", ())
    return Finding(HUNG, f"{where}, where it does not go on", ())


def lost_ranks(lost: Sequence[Peer]) -> str:
    """Which ranks are gone, and how that is known."""
    return "; ".join(f"rank {peer.rank}: {_fate(peer)}" for peer in lost)


def has_vanished(peer: Peer) -> bool:
    """Whether a rank's process has ended without a word."""
    return peer.is_gone and not peer.failed and peer.phase != Phase.END.value


def _fate(peer: Peer) -> str:
    if peer.failed:
        return f"it failed {peer.where}: {peer.failed}"
    if has_vanished(peer):
        return f"its process is gone {peer.where}"
    return f"no sign of it for {peer.silent_s:.0f} s {peer.where}: it is stopped, or its machine is gone"


def _is_lost(peer: Peer, limits: FaultsConfig) -> bool:
    is_silent = peer.silent_s >= limits.silent_s and peer.phase != Phase.END.value
    return is_silent or bool(peer.failed) or has_vanished(peer)
