"""Threads that take turns: one runs at a time until each waits for an answer, then all get theirs.

Python's, numpy's and torch's random numbers are each thread's own: what it draws does not depend on
who runs in between.
"""

import random
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

Answer = Callable[[Sequence["Member"]], Sequence["Member"]]


class Member(threading.Thread):
    """One of the threads.

    Attributes:
        request: what it waits for an answer to.
        reply: the answer, or an exception to be raised where it asked.
        over: whether it has ended.
        randomness: the state of its random numbers while it waits.
    """

    def __init__(self, turns: "Turns", work: Callable[["Member"], None]) -> None:
        super().__init__(daemon=True)
        self.request: Any = None
        self.reply: Any = None
        self.over = False
        self.randomness = Randomness()
        self.go = threading.Semaphore(0)
        self._turns, self._work = turns, work

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self._turns.cancelled:
                self._work(self)
        finally:
            self.over = True
            self._turns.back.release()

    def ask(self, request: Any) -> Any:
        """Lets the others run, and returns the answer; to be called in this thread.

        Raises:
            KeyboardInterrupt: all are told to end.
        """
        self.request = request
        self._turns.back.release()
        self.go.acquire()
        if self._turns.cancelled:
            raise KeyboardInterrupt
        reply, self.reply = self.reply, None
        if isinstance(reply, BaseException):
            raise reply
        return reply


class Turns:
    """Conducts the members from the thread that calls `run`.

    Args:
        answer: gets the members that wait, gives `reply` to some of them, and returns these.
    """

    def __init__(self, answer: Answer) -> None:
        self.members: list[Member] = []
        self.cancelled = False
        self.back = threading.Semaphore(0)
        self._answer = answer
        self._running: Member | None = None

    def add(self, work: Callable[[Member], None]) -> Member:
        self.members.append(Member(self, work))
        return self.members[-1]

    def run(self) -> None:
        """Until every member is over.

        Raises:
            KeyboardInterrupt: after Ctrl-C; every member has ended by one of its own.
        """
        for member in self.members:
            member.start()
        try:
            ready: Sequence[Member] = self.members
            while ready:
                for member in ready:
                    self._turn(member)
                waiting = [member for member in self.members if not member.over]
                ready = self._answer(waiting) if waiting else []
        except KeyboardInterrupt:
            self.cancelled = True
            if self._running is not None:
                self.back.acquire()
            for member in self.members:
                if not member.over:
                    member.go.release()
                member.join()
            raise

    def _turn(self, member: Member) -> None:
        member.randomness.restore()
        self._running = member
        member.go.release()
        self.back.acquire()
        self._running = None
        member.randomness.save()


class Randomness:
    """The state of all random number generators of the process; at first none."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] | None = None

    def save(self) -> None:
        numpy, torch = _loaded("numpy"), _loaded("torch")
        cuda = torch is not None and torch.cuda.is_initialized()
        self._state = (
            random.getstate(),
            numpy and numpy.random.get_state(),
            None if torch is None else torch.get_rng_state(),
            torch.cuda.get_rng_state() if cuda else None,
        )

    def restore(self) -> None:
        if self._state is None:
            return
        plain, of_numpy, of_torch, of_cuda = self._state
        random.setstate(plain)
        if of_numpy is not None:
            _loaded("numpy").random.set_state(of_numpy)
        if of_torch is not None:
            _loaded("torch").set_rng_state(of_torch)
        if of_cuda is not None:
            _loaded("torch").cuda.set_rng_state(of_cuda)


def _loaded(name: str) -> Any:
    """A module if it is imported; this file imports neither numpy nor torch."""
    module = sys.modules.get(name)
    return module if hasattr(module, "__path__") else None
