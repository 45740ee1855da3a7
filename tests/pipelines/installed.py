"""Which executors this machine has: what holds for all of them is tested on each of these."""

from viewmill.pipelines.executors.executor import dali_is_installed


def installed_executors() -> list[str]:
    """Names of the executors that can run here; the reference comes first."""
    return ["reference", "host", "resident", *(["dali"] if dali_is_installed() else [])]
