"""Who looks from where, and what is worth rendering for them now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from .rendering import Viewpoint

SMALLEST = 48  # pixels along the longer side, however slow the renderer
MOVING = 0.3  # seconds after its last change in which a view counts as moving
FRAME = 0.1  # seconds that a picture may take while the view moves
SHARE = 0.2  # of the time, at most, for pictures of a view at rest while the weights change


@dataclass
class _Look:
    view: Viewpoint
    since: float
    size: int = 0  # of the picture that shows it
    step: int = -1  # of the weights in that
    due: float = 0.0  # when the next one may be made


class RenderRequests:
    """The latest view of each client: small pictures while it moves, a large one when it rests.

    Other threads than the one that renders tell of clients. `clock` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: dict[int, _Look] = {}
        self._news = Event()
        self._rate = 0.0  # pixels a second

    def __len__(self) -> int:
        return len(self._looks)

    def look(self, client: int, view: Viewpoint) -> None:
        """From now on a client looks from here."""
        self._looks[client] = _Look(view, self._clock())
        self._news.set()

    def leave(self, client: int) -> None:
        self._looks.pop(client, None)

    def again(self) -> None:
        """All pictures are to be made anew."""
        for client, look in list(self._looks.items()):
            self.look(client, look.view)

    def wait(self, seconds: float) -> None:
        """Until somebody looks elsewhere, at most so long."""
        self._news.wait(seconds)
        self._news.clear()

    def due(self, step: int, largest: int) -> list[tuple[int, Viewpoint, int]]:
        """Client, view, and pixels along the longer side, of the pictures to make now.

        Args:
            step: that the weights are at.
            largest: pixels, of a view at rest.
        """
        now, found = self._clock(), []
        for client, look in list(self._looks.items()):
            size = largest
            if moves := now - look.since < MOVING:
                pixels = self._rate * FRAME * max(look.view.aspect, 1 / look.view.aspect)
                size = int(min(largest, max(SMALLEST, pixels**0.5)))
            newer = look.step != step and now >= look.due
            if look.size == 0 or not moves and (look.size != size or newer):
                found.append((client, look.view, size))
        return found

    def drawn(self, client: int, view: Viewpoint, size: int, step: int, seconds: float) -> None:
        """A picture was made, and took so long."""
        self._rate = size * size * min(view.aspect, 1 / view.aspect) / max(seconds, 1e-6)
        look = self._looks.get(client)
        if look is not None and look.view is view:
            look.size, look.step = size, step
            look.due = self._clock() + seconds * (1 / SHARE - 1)
