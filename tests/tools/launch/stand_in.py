"""An interpreter that stands in for ranks where a test is about what starts and ends them."""

from pathlib import Path

# Like torchrun it has a child in a session of its own, and ends with 1 whatever the ranks end with.
PROGRAM = """#!/usr/bin/env bash
[ "$1" = -c ] && exit 0
setsid sleep 900 &
trap 'touch "{run}/saved-$HOSTNAME"; echo "{{}}" >"{run}/requeue.json"; exit 1' USR1
touch "{run}/ready-$HOSTNAME"
while :; do sleep 0.1; done
"""


def stand_in(run: Path) -> Path:
    """Its file; it says by files in the run's folder, and by the name of its host, where it is."""
    path = run.with_name("interpreter")
    path.write_text(PROGRAM.format(run=run))
    path.chmod(0o755)
    return path
