"""Ctrl-C and SIGTERM wait for the end of a training step."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopLater:
    """Notes the first stop signal inside a ``with`` block instead of obeying it.

    A second one is obeyed at once. Outside the main thread signals are left as they are.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # signals that are ignored (a background job) or not handled by Python are left alone
            left = (signal.SIG_IGN, None)
            taken = [each for each in _SIGNALS if signal.getsignal(each) not in left]
            self._handlers = {number: signal.signal(number, self._note) for number in taken}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
        if error is None:
            self.obey()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = number
        self._restore()
        logger.info("stopping after this step; a second signal stops immediately")

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def obey(self, before: Callable[[], None] = lambda: None) -> None:
        """Do what the noted signal asks for; nothing if it does not exist.

        Args:
            before: called first, to save the state.
        """
        if self._noted is not None:
            number, self._noted = self._noted, None
            before()
            signal.raise_signal(number)
