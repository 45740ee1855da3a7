"""Memory that a step lets go stays with the process, unless the environment says otherwise."""

import ctypes
import subprocess
import sys

import pytest
from viewmill.engine.heap import keep_freed_memory

HAS_MALLOPT = hasattr(ctypes.CDLL(None), "mallopt")
# Resident MiB after 256 MiB were taken, written, and let go; after that was done 16 times, and 40 times more.
PROBE = """
import sys, torch, psutil
from viewmill.engine.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for times in (1, 15, 40):
    for _ in range(times):
        torch.ones(1 << 26)
    print(psutil.Process().memory_info().rss >> 20)
"""


def resident_mib(how: str) -> list[int]:
    words = [sys.executable, "-c", PROBE, how]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(mib) for mib in done.stdout.split()]


@pytest.mark.skipif(not HAS_MALLOPT, reason="this C library has no mallopt")
def test_what_is_freed_stays_and_is_taken_again() -> None:
    once, sixteen_times, later = resident_mib("keep")
    given_back = resident_mib("leave")[0]
    assert once - given_back > 200
    # At first several are taken, for an aligned one may not fit into the place of another; then no more.
    assert later - sixteen_times < 100


def test_a_choice_of_the_environment_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
