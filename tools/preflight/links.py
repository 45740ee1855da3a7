"""Check `links`: round trip and rate between each two hosts, both ways, so that a slow one is named."""

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from viewmill.tools.preflight.pace import settle, sized
from viewmill.tools.preflight.verdict import (
    FAIL,
    PASS,
    WARN,
    Seen,
    Verdict,
    bytes_text,
    graded,
    passed,
    worst,
)

NAME = "links"
ROUND_TRIPS = 20
SECONDS, MOST_BYTES = 0.2, 64 << 20  # of one direction of a link
# bytes/s: the gradients of a ResNet-50 in bf16, 51 MB, take a second at the first, ten at the second.
WARN_RATE, FAIL_RATE = 50e6, 5e6
WARN_ROUND_TRIP_S, FAIL_ROUND_TRIP_S = 0.005, 0.1
# Beside the median of all links, where there are three and more.
SLOW_SHARE = 0.5
LATE_TIMES, LATE_LEAST_S = 5.0, 0.002


def measure(me: int, leaders: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What this rank measured as the first of its pairs: {"links": [{to, round_trip_s, there, back}]}.

    Bytes/s and seconds. Each two hosts meet once; in one round every host has one partner at most, so that no
    card is shared.
    Every leader must call, and all of `leaders` be the same everywhere.

    Raises:
        RuntimeError: a partner does not answer in time.
    """
    found = []
    for pairs in rounds(len(leaders)):
        for first, second in pairs:
            if me == leaders[first]:
                found.append({"to": leaders[second], **_as_first(leaders[second], device)})
            elif me == leaders[second]:
                _as_second(leaders[first], device)
    return {"links": found}


def rounds(count: int) -> list[list[tuple[int, int]]]:
    """Every pair of 0..count-1 once, (smaller, larger), in rounds where nobody occurs twice.

    The circle method of tournaments: one stays, the others move on by one seat a round.
    """
    seats: list[int | None] = list(range(count))
    if count % 2:
        seats.append(None)
    found = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        opposite = zip(seats[:half], reversed(seats[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in opposite if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return found


def _as_first(peer: int, device: torch.device) -> dict[str, float]:
    trips, word = [], torch.zeros(1, device=device)
    for _ in range(ROUND_TRIPS):
        begin = time.perf_counter()
        send(word, peer)
        receive(word, peer)
        settle(device)
        trips.append(time.perf_counter() - begin)
    there = _send_timed(peer, device)
    _receive_sized(peer, device)
    back = torch.zeros(1, dtype=torch.float64)
    receive(back, peer)
    return {"round_trip_s": statistics.median(trips), "there": there, "back": float(back)}


def _as_second(peer: int, device: torch.device) -> None:
    word = torch.zeros(1, device=device)
    for _ in range(ROUND_TRIPS):
        receive(word, peer)
        send(word, peer)
    settle(device)
    _receive_sized(peer, device)
    rate = _send_timed(peer, device)
    send(torch.tensor([rate], dtype=torch.float64), peer)


def _send_timed(peer: int, device: torch.device) -> float:
    """Bytes/s towards the peer, the answer that all has come included; first a little, to learn how much."""

    def seconds(count: int) -> float:
        send(torch.tensor([count]), peer)
        payload, word = torch.zeros(count, dtype=torch.uint8, device=device), torch.zeros(1, device=device)
        settle(device)
        begin = time.perf_counter()
        send(payload, peer)
        receive(word, peer)
        settle(device)
        return time.perf_counter() - begin

    count = sized(seconds, SECONDS, MOST_BYTES)
    rate = count / seconds(count)
    send(torch.tensor([0]), peer)
    return rate


def _receive_sized(peer: int, device: torch.device) -> None:
    """The other end of `_send_timed`: sizes, then as many bytes, until a size of 0."""
    size, word = torch.zeros(1, dtype=torch.int64), torch.zeros(1, device=device)
    while True:
        receive(size, peer)
        if not int(size):
            return
        receive(torch.empty(int(size), dtype=torch.uint8, device=device), peer)
        send(word, peer)


def send(tensor: torch.Tensor, peer: int) -> None:
    dist.send(tensor, dst=peer)


def receive(tensor: torch.Tensor, peer: int) -> None:
    dist.recv(tensor, src=peer)


def judge(seen: Sequence[Seen], hosts: Mapping[int, str]) -> list[Verdict]:
    """Each slow link by its two hosts; one host that all slow links share is named instead.

    Args:
        hosts: of each rank.
    """
    links = [
        {"hosts": (one.host, hosts[link["to"]]), **link, "rate": min(link["there"], link["back"])}
        for one in seen
        for link in one.facts["links"]
    ]
    if not links:
        return [passed(NAME, "one host")]
    middle_rate = statistics.median(link["rate"] for link in links)
    middle_s = statistics.median(link["round_trip_s"] for link in links)
    bad = [(link, why) for link in links if (why := _why(link, len(links), middle_rate, middle_s))[0] != PASS]
    if not bad:
        slowest, latest = min(link["rate"] for link in links), max(link["round_trip_s"] for link in links)
        found = (
            f"{len(links)} pairs, {bytes_text(slowest)}/s and more, round trips up to {1000 * latest:.2g} ms"
        )
        return [passed(NAME, found)]
    shared = culprit([link["hosts"] for link, _ in bad], [link["hosts"] for link in links])
    if shared is not None:
        link, (_, found) = min(bad, key=lambda pair: pair[0]["rate"])
        verdicts = [Verdict(NAME, status, "", "") for _, (status, _) in bad]
        found = f"all {len(bad)} of its links are slow; that with {_other(link['hosts'], shared)}: {found}"
        remedy = "look at this host's card, cable and switch port (ethtool, ibstat), or leave it out"
        return [Verdict(NAME, worst(verdicts), shared, found, remedy)]
    remedy = "look at the way between the two (cables, switches, MTU), or leave one of them out"
    return [Verdict(NAME, status, " - ".join(link["hosts"]), found, remedy) for link, (status, found) in bad]


def culprit(slow: Sequence[tuple[str, str]], links: Sequence[tuple[str, str]]) -> str | None:
    """The host that is part of every slow link and has no other; None: there is none, or one link alone."""
    counts = Counter(host for pair in slow for host in pair)
    all_of = Counter(host for pair in links for host in pair)
    found = [host for host, count in counts.items() if count == len(slow) == all_of[host]]
    return found[0] if len(found) == 1 else None


def _why(link: dict[str, Any], count: int, middle_rate: float, middle_s: float) -> tuple[str, str]:
    """Status, and the figures beside the medians."""
    rate, trip = link["rate"], link["round_trip_s"]
    status = graded(rate, warn=WARN_RATE, fail=FAIL_RATE)
    if status == PASS and trip > WARN_ROUND_TRIP_S:
        status = WARN
    if trip > FAIL_ROUND_TRIP_S:
        status = FAIL
    beside = rate < SLOW_SHARE * middle_rate or (trip > LATE_TIMES * middle_s and trip > LATE_LEAST_S)
    if status == PASS and count >= 3 and beside:
        status = WARN
    there, back = bytes_text(link["there"]), bytes_text(link["back"])
    found = f"{there}/s there, {back}/s back, round trip {1000 * trip:.3g} ms"
    if count >= 3:
        found += f" (medians {bytes_text(middle_rate)}/s, {1000 * middle_s:.2g} ms)"
    return status, found


def _other(pair: tuple[str, str], host: str) -> str:
    return pair[1] if pair[0] == host else pair[0]
