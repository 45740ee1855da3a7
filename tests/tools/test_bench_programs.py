"""What programs cost includes the processes that they leave behind."""

import sys

from viewmill.tools.bench.programs import run_program

# A grandchild that outlives its parent and then works; nobody but the system can tell what it took.
LEAVES_ONE_BEHIND = """
import subprocess, sys
work = "import time\\nend = 0.4\\nwhile time.process_time() < end: pass"
subprocess.Popen([sys.executable, "-c", work])
"""


def test_the_cpu_time_of_processes_that_are_left_behind_counts() -> None:
    spent = run_program([sys.executable, "-c", LEAVES_ONE_BEHIND])["cpu_seconds"]
    nothing = run_program([sys.executable, "-c", "pass"])["cpu_seconds"]
    assert spent >= 0.4
    assert nothing < spent - 0.2
