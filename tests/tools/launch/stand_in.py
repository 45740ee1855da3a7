"""An interpreter that stands in for ranks where a test is about what starts and ends them."""

from pathlib import Path

# Like torchrun it has a child in a session of its own, and ends with 1 whatever its ranks end with. As the
# launcher of DeepSpeed it does what that one does with hosts: pdsh, for the word that stands last.
PROGRAM = """#!/usr/bin/env bash
[ "$1" = -c ] && exit 0
if [ "$2" = deepspeed.launcher.runner ]; then
    exec pdsh -R ssh -S -w "$(cut -d' ' -f1 "{run}/launch/hosts" | paste -sd,)" "${{@: -1}}"
fi
setsid sleep 900 >/dev/null 2>&1 &
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
