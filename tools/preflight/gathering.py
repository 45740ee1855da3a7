"""Finds facts out with a limit of time: what fails or never answers becomes an error among the facts."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

Facts = dict[str, Any]


def gathered(tasks: Mapping[str, Callable[[], Facts]], limit_s: float) -> dict[str, Facts]:
    """The facts of every task, all of them at once, each in a thread of its own.

    A task that raises gives {"error": text}; so does one that has not returned after `limit_s` seconds. Its
    thread is left behind: a call to a file server that is gone cannot be ended.
    """
    found: dict[str, Facts] = {}
    threads = {}
    for name, task in tasks.items():
        thread = threading.Thread(target=_keep, args=(name, task, found), daemon=True)
        thread.start()
        threads[name] = thread
    until_s = time.monotonic() + limit_s
    for thread in threads.values():
        thread.join(max(0.0, until_s - time.monotonic()))
    late = {"error": f"no answer within {limit_s:g} s"}
    return {name: found.get(name, late) for name in tasks}


def attempted(task: Callable[[], Facts]) -> Facts:
    """The facts, or {"error": one line of text}."""
    try:
        return task()
    # Whatever it is, of whatever library: the other ranks must not wait for this one.
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        return {"error": f"{type(error).__name__}: {text}"[:500]}


def _keep(name: str, task: Callable[[], Facts], found: dict[str, Facts]) -> None:
    found[name] = attempted(task)
