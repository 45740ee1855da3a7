"""Peaks of memory, as the system counts them for each process."""

from pathlib import Path


def peak_bytes(process: int | str = "self") -> int:
    """The most memory that a process has held; its parent's does not count, as it would in getrusage.

    Raises:
        OSError: there is no such process (any more).
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0  # a process that has ended has no memory


def peaks_of_children(process: int) -> dict[int, int]:
    """`peak_bytes` of the children that a process has at this moment, without those that have ended."""
    peaks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in brackets may hold anything; the parent is the second field after it.
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            peak = peak_bytes(folder.name) if parent == process else 0
        except OSError:  # it has ended meanwhile
            continue
        if peak:
            peaks[int(folder.name)] = peak
    return peaks
