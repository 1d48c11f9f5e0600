"""The page: a render that one orbits, the guidance's pictures, curves, and what may be changed."""

import contextlib
import io
from collections.abc import Mapping
from itertools import cycle
from math import degrees, radians
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..evaluation.curves import COLORS, panels_of, short_name
from ..runs import Series
from .rendering import IMAGES, Viewpoint
from .requests import RenderRequests

HOST = "127.0.0.1"  # there is no password
WIDTH = 960  # pixels of the guidance's pictures, at most
HIDDEN = {"show": False}
NO_PICTURES = "*No pictures of the guidance yet: `system.guidance_eval_step` says when.*"


class Page:
    """What viser shows on this machine, and what those who look want, told by viser's threads.

    Args:
        port: where it listens; at the next free one if that is taken.
        title: Markdown.
        trains: whether there is a training to pause and to stop.
        view, size: from where one looks at first, and pixels along the longer side at rest.

    Attributes:
        address, requests: where it is, and who looks from where.
        image: which of `IMAGES`.
        paused, stopped: whether the training is to wait, or to end.
        changes: names of numbers, and their new values.

    Raises:
        ValueError: viser is not installed, or there is no such port.
    """

    def __init__(self, port: int, title: str, trains: bool, view: Viewpoint, size: int) -> None:
        try:
            import viser
        except ImportError as error:
            raise ValueError("the live view needs viser: pip install 'viser>=1.1'.") from error
        if not 1 <= port <= 60_000:  # and room above, to look for a free one
            raise ValueError(f"the live view cannot listen at port {port}: give one up to 60000.")
        self.requests = RenderRequests()
        self.image, self.size = "render", size
        self.paused = self.stopped = False
        self.changes: SimpleQueue[tuple[str, float]] = SimpleQueue()
        self._plots: dict[str, tuple[list[str], Any]] = {}
        self._picture: Any = None
        with contextlib.redirect_stdout(io.StringIO()):  # viser would say where it is in its way
            self._server = viser.ViserServer(host=HOST, port=port, verbose=False)
        found = self._server.get_port()
        self.address = f"http://{HOST}:{found}" + f" ({port} is taken)" * (found != port)
        camera = self._server.initial_camera
        camera.position, camera.look_at, camera.fov = view.position, view.look_at, view.fovy
        self._add_controls(title, trains, view)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)

    async def _connect(self, client: Any) -> None:
        async def look(camera: Any) -> None:
            vectors = (camera.position, camera.look_at, camera.up_direction)
            vectors = (tuple(map(float, vector)) for vector in vectors)
            self.requests.look(client.client_id, Viewpoint(*vectors, camera.fov, camera.aspect))

        client.camera.on_update(look)
        await look(client.camera)

    async def _disconnect(self, client: Any) -> None:
        self.requests.leave(client.client_id)

    def _add_controls(self, title: str, trains: bool, view: Viewpoint) -> None:
        gui = self._server.gui
        # viser's share button would show the page to everybody, by a server of its makers
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        gui.set_panel_label("jointdreamer")
        gui.add_markdown(title)
        self._status = gui.add_markdown("")
        self._pause = gui.add_button("Pause", visible=trains)
        self._stop = gui.add_button("Stop with a checkpoint", color="red", visible=trains)
        tabs = gui.add_tab_group()
        with tabs.add_tab("View"):
            image = gui.add_dropdown("Image", tuple(IMAGES))
            size = gui.add_slider("Pixels", min=64, max=1024, step=32, initial_value=self.size)
            degree = round(degrees(view.fovy))
            fov = gui.add_slider("Field of view (°)", min=1, max=179, step=1, initial_value=degree)
        with tabs.add_tab("Guidance") as self._guidance:
            self._note = gui.add_markdown(NO_PICTURES)
        self._curves = tabs.add_tab("Curves")
        self._pause.on_click(self._on_pause)
        self._stop.on_click(self._on_stop)
        image.on_update(lambda _: self._show("image", image.value))
        size.on_update(lambda _: self._show("size", size.value))
        fov.on_update(lambda _: self._zoom(radians(fov.value)))

    def _on_pause(self, _: Any) -> None:
        self.paused = not self.paused
        self._pause.label = "Resume" if self.paused else "Pause"

    def _on_stop(self, _: Any) -> None:
        self.stopped, self.paused = True, False
        self._pause.disabled = self._stop.disabled = True

    def _show(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        self.requests.again()

    def _zoom(self, fovy: float) -> None:
        for client in self._server.get_clients().values():
            client.camera.fov = fovy

    def add_number(self, name: str, value: float) -> None:
        """A number that may be changed, and its value now."""
        with self._guidance:
            field = self._server.gui.add_number(name, float(value), step=0.001)
            button = self._server.gui.add_button(f"Hold {name} from now on")
        button.on_click(lambda _: self.changes.put((name, float(field.value))))

    def send(self, client: int, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """A render for one of those who look."""
        if handle := self._server.get_clients().get(client):
            handle.scene.set_background_image(image, format="jpeg", jpeg_quality=95)

    def say(self, status: str) -> None:
        """Markdown, in place of what was said before."""
        self._status.content = status

    def show_guidance(self, path: Path) -> None:
        """The guidance's pictures from a file."""
        with Image.open(path) as picture:
            picture.thumbnail((WIDTH, 4 * WIDTH))
            pixels = np.asarray(picture.convert("RGB"))
        self._note.content = f"What the guidance saw, and what its priors want: `{path.name}`"
        if self._picture is None:
            with self._guidance:
                self._picture = self._server.gui.add_image(pixels, format="jpeg", jpeg_quality=90)
        self._picture.image = pixels

    def show_curves(self, metrics: Mapping[str, Series]) -> None:
        """What was logged so far, by name."""
        for order, (panel, found) in enumerate(panels_of(metrics)):
            names, plot = self._plots.get(panel.title, ([], None))
            if names == list(found):
                plot.data = _columns(found)
                continue
            if plot is not None:
                plot.remove()
            lines = [
                {"label": short_name(name), "stroke": color, "width": 1.5}
                for name, color in zip(found, cycle(COLORS), strict=False)
            ]
            with self._curves:
                plot = self._server.gui.add_uplot(
                    _columns(found),
                    ({"label": "step"}, *lines),
                    title=panel.title,
                    scales={"x": {"time": False}, "y": {"distr": 3 if panel.log_scale else 1}},
                    axes=({"ticks": HIDDEN}, {"ticks": HIDDEN, "size": 70}),
                    padding=(12, 24, 0, 0),
                    aspect=1.6,
                    order=order,
                )
            self._plots[panel.title] = list(found), plot

    def close(self) -> None:
        self._server.stop()


def _columns(found: Mapping[str, Series]) -> tuple[np.ndarray, ...]:
    """Steps, and each curve's values at these; NaN where it has none."""
    steps = sorted({step for series in found.values() for step, _ in series})
    values = (dict(series) for series in found.values())
    columns = [[column.get(step, np.nan) for step in steps] for column in values]
    return tuple(np.array(column, dtype=np.float64) for column in (steps, *columns))
