"""Check `host name`: the own name leads to an address at which other hosts can reach this one."""

import os
import socket
from collections.abc import Sequence
from typing import Any

from viewmill.tools.preflight.verdict import FAIL, WARN, Seen, Verdict, of_hosts, passed

NAME = "host name"


def gather() -> dict[str, Any]:
    """The addresses of the own name, none where it has none; the interface that gloo was told to take."""
    name = socket.gethostname()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)}
    except socket.gaierror:
        found = set()
    return {"name": name, "addresses": sorted(found), "interface": os.environ.get("GLOO_SOCKET_IFNAME")}


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """With several hosts, a name that leads to loopback fails: gloo and torchrun's rendezvous listen there.

    A name without an address, or one host's loopback name, is no hindrance to one host; nor is any name to
    ranks that were told their interface.
    """
    hosts = of_hosts(seen)
    if len(hosts) == 1:
        return [passed(NAME, f"one host: {hosts[0].facts['name']}")]
    verdicts = []
    for one in hosts:
        name, addresses = one.facts["name"], one.facts["addresses"]
        remedy = f"give '{name}' its real address in /etc/hosts there, or set GLOO_SOCKET_IFNAME on all ranks"
        if one.facts["interface"] not in (None, "lo"):
            continue
        if not addresses:
            verdicts.append(Verdict(NAME, WARN, one.host, f"'{name}' has no address", remedy))
        elif all(is_loopback(address) for address in addresses):
            found = f"'{name}' leads to {addresses[0]}, where no other host can reach it"
            verdicts.append(Verdict(NAME, FAIL, one.host, found, remedy))
    return verdicts or [passed(NAME, f"each of {len(hosts)} hosts has an address")]


def is_loopback(address: str) -> bool:
    """Of 127.0.0.0/8 or ::1."""
    return address.startswith("127.") or address == "::1"
