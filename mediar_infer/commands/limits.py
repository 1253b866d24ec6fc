"""Limits of the host that libraries do not survive: what would end in a crash becomes one line."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

from mediar_infer.devices import usable_cores
from mediar_infer.process import address_limit_bytes, flush_stdout

_THREADS_PER_CORE: Final = 6
"""What BLAS, torch, OpenVINO, OpenCV and this package start together."""
_THREAD_FAILURES: Final = ("can't start new thread", "Resource temporarily unavailable")
_PARENT_DEATH_SIGNAL: Final = 1
"""Option of ``prctl``."""
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCONT)


def explain_limits(error: BaseException) -> str | None:
    """Tell whether a limit of the host explains why a command failed.

    Args:
        error: what ended the command. OpenBLAS sends an interrupt where it cannot start a thread.

    Returns:
        What was found, what was expected and what to do; ``None`` if no limit explains it.
    """
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _THREAD_FAILURES):
        return _describe_threads(0)  # by now one may have ended
    if isinstance(error, KeyboardInterrupt):
        n_cores = usable_cores()
        n_started = count_startable_threads(n_cores)
        return _describe_threads(n_started) if n_started < n_cores else None
    limit = address_limit_bytes()
    is_about_memory = isinstance(error, MemoryError | SystemError | ImportError)
    if limit is None or not is_about_memory or isinstance(error, ModuleNotFoundError):
        return None
    return f"found {_describe_address_limit(limit)}"


def _describe_threads(n_started: int) -> str:
    return (
        f"found room for {n_started} more threads, expected {_THREADS_PER_CORE * usable_cores()};"
        " raise the limit of processes (docker --pids-limit, ulimit -u), or allow fewer cores"
        " (docker --cpuset-cpus, taskset)"
    )


def _describe_address_limit(limit_bytes: int) -> str:
    return (
        f"a limit of {limit_bytes / 1e9:.1f} GB of address space, expected room for the libraries"
        " and an image; raise or remove it (ulimit -v)"
    )


def count_startable_threads(wanted: int) -> int:
    """Start threads that do nothing and end them again.

    Returns:
        How many of those that were wanted could be started.
    """
    released = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=released.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass  # this is how Python reports the limit
    finally:
        released.set()
    for thread in started:
        thread.join()
    return len(started)


def survive_address_limit(report: Callable[[str], None]) -> None:
    """Under a limit of address space, go on in a child and report its crash; else do nothing.

    Libraries that get no memory end the process without a word. Only the child returns.

    Args:
        report: called in the parent with one sentence if the child crashes.
    """
    limit = address_limit_bytes()
    if limit is None:
        return
    flush_stdout()
    # Until both know what to do with them.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        # A group of its own: a signal to the group of the parent, as from a terminal, would reach
        # the child twice, and the second one would interrupt how it ends.
        os.setpgid(0, 0)
        if sys.platform.startswith("linux"):
            # A parent that is killed must not leave its child at work.
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return
    _pass_signals_on(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS):
        crash = signal.Signals(-code).name
        report(f"found a crash ({crash}) under {_describe_address_limit(limit)}")
        os._exit(1)
    os._exit(code if code >= 0 else 128 - code)


def _pass_signals_on(child: int) -> None:
    """Pass on to a child what stops this process for good or for a while."""

    def pass_on(signum: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            # What the child has started is paused with it, but stopped by it.
            send = os.killpg if signum in (signal.SIGTSTP, signal.SIGCONT) else os.kill
            send(child, signum)
        if signum == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)

    for number in _PASSED_ON:
        # A shell ignores Ctrl-C for what it starts in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
