"""`Process`: a command that runs, spoken to through its stdin, its stderr told with its host's name."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque

from viewmill.tools.launch.written import Command

# ssh ends with it where the connection fails or breaks, and with the remote command's code otherwise.
SSH_FAILED = 255


class Process:
    """One command, in a session of its own: Ctrl-C is the launcher's to pass on.

    Args:
        stdout: the descriptor that takes what it prints; None: the launcher's own.
        first: what a leased command reads before any word.
        kept_lines: so many of the last lines of its stderr are kept, and none is told; None: all are told.
    """

    def __init__(
        self,
        command: Command,
        *,
        stdout: int | None = None,
        first: str = "",
        kept_lines: int | None = None,
    ) -> None:
        self.command = command
        self._is_told = kept_lines is None
        self._popen = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            stdin=subprocess.PIPE if command.leased else subprocess.DEVNULL,
            stdout=stdout,
            stderr=None if command.host is None else subprocess.PIPE,
            start_new_session=True,
        )
        self._last: deque[str] = deque(maxlen=kept_lines or 1)
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which its code tells
                self._popen.stdin.write(first.encode())
                self._popen.stdin.flush()
            # A host that is cut off takes nothing: the launcher must not wait for it.
            os.set_blocking(self._popen.stdin.fileno(), False)
        self._teller = threading.Thread(target=self._tell, daemon=True)
        self._teller.start()

    @property
    def code(self) -> int | None:
        """The exit code; None: it runs."""
        return self._popen.poll()

    @property
    def is_lost(self) -> bool:
        """Whether the connection to its host is no more."""
        return self.command.host is not None and self.code == SSH_FAILED

    @property
    def last_line(self) -> str:
        """What it said last on stderr, where that is read."""
        return next(iter(self.last_lines[-1:]), "")

    @property
    def last_lines(self) -> list[str]:
        """As many of them as are kept."""
        self._teller.join(1.0)
        return list(self._last)

    def say(self, word: str) -> None:
        """One of the words that lease.sh knows."""
        stdin = self._popen.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(stdin.fileno(), f"{word}\n".encode())

    def fall_silent(self) -> None:
        """Ends the words, at which lease.sh ends the run's processes there."""
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def signal(self, number: int) -> None:
        """To the command alone, where it still runs."""
        if self.code is None:
            self._popen.send_signal(number)

    def kill(self) -> None:
        """Ends it and what it has started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def _tell(self) -> None:
        """The life of a thread: stderr of a host, line by line."""
        if self._popen.stderr is None:
            return
        for line in self._popen.stderr:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last.append(text)
                if not self._is_told:
                    continue
                print(f"{self.command.host}: {text}", file=sys.stderr, flush=True)
