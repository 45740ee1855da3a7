"""Peaks of memory, as the system counts them for each process."""

from pathlib import Path

MIB = 2**20
PAGE = 4096  # what the system counts memory in


def peak_bytes(process: int | str = "self") -> int:
    """The most memory that a process has held; its parent's does not count, as it would in getrusage.

    Raises:
        OSError: there is no such process (any more).
    """
    return _bytes_of("VmHWM", process)


def now_bytes() -> int:
    """The memory that this process holds."""
    return _bytes_of("VmRSS", "self")


def reset_peak() -> None:
    """From now on `peak_bytes` of this process counts anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _bytes_of(name: str, process: int | str) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    lines = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0  # a process that has ended has no memory


def peaks_of_descendants(process: int) -> dict[int, int]:
    """`peak_bytes` of a process, its children and theirs, without those that have ended."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in brackets may hold anything; the parent is the second field after it.
            parents[int(folder.name)] = int(
                (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            )
        except OSError:  # it has ended meanwhile
            continue
    family = {process}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    peaks: dict[int, int] = {}
    for member in family:
        try:
            peaks[member] = peak_bytes(member)
        except OSError:
            continue
    return {member: peak for member, peak in peaks.items() if peak}
