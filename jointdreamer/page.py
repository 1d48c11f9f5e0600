"""`jointdreamer page`: a run as one index.html, which opens from disk and needs no network."""

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from .runs import CHECKPOINT, CONFIG, RECORD, Run

PAGE, CURVES = "index.html", "curves.png"
TEMPLATE = "page.html.j2"
VIEWER = Path(__file__).parent / "model-viewer" / "model-viewer.min.js"  # 4.4.0 of npm's
FILMS = ("test.mp4", "test.webm", "path.mp4", "path.webm", "test-contact-sheet.png")
SETTINGS = {  # shown beside the numbers
    "seed": "seed",
    "guidance": "system.guidance_type",
    "2D prior": "system.guidance.pretrained_model_name_or_path",
    "energy": "system.guidance.energy_type",
    "guidance scale": "system.guidance.guidance_scale",
    "energy weight": "system.guidance.energy_weight",
}
CAMERA = ("elevation_deg", "camera_distance", "fovy_deg")  # of the film
LOGGED = {"SDS loss": "train/loss_sds", "gradient norm": "train/grad_norm"}
LOGGED |= {"energy C": "train/energy"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write RUN/index.html: the spinning model, the film, settings, numbers."
    parser.add_argument("folder", metavar="RUN", type=Path, help="a tested run's folder")
    text = "what counts faces: auto (tiny for the tiny priors), open_clip:MODEL/PRETRAINED or off"
    parser.add_argument("--janus", default="auto", metavar="WHAT", help=text)
    parser.set_defaults(run=lambda args: print(write_page(args.folder, args.janus)))


def write_page(folder: Path, detector: str = "auto") -> Path:
    """Writes `index.html` into a run's folder, whole or not at all, and returns its path.

    Model, film and pictures are inside it, and a policy forbids the browser to load anything else;
    all of the run's files are linked. Curves are drawn anew.

    Args:
        detector: of the Janus meter, which looks at the turntable; `off`; or `auto`: the tiny
            world's, which knows creatures only, where that world's priors made the asset.

    Raises:
        FileNotFoundError: the run was not tested.
        ValueError: its config has no prompt, or the detector is unknown.
    """
    from jinja2 import Environment, FileSystemLoader
    from omegaconf import OmegaConf
    from threestudio_jointdreamer.files import replacing

    from .evaluation.assets import read_asset
    from .evaluation.curves import draw_curves
    from .evaluation.thumbnails import data_uri

    run = Run(folder)
    asset = read_asset(run)
    cfg = OmegaConf.load(folder / CONFIG)
    with suppress(FileNotFoundError, ValueError):  # very few steps log nothing
        draw_curves(run, folder / CURVES)
    select = partial(OmegaConf.select, cfg, throw_on_resolution_failure=False)
    camera = {key: select(f"data.eval_{key}") for key in CAMERA}
    files = _files(run)

    def embedded(ending: str, kind: str) -> str:
        found = (path for path in files if path.name.endswith(ending))
        return next((data_uri(path.read_bytes(), kind) for path in found), "")

    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(TEMPLATE)
    text = template.render(
        asset=asset,
        model="" if _is_splats(files) else embedded(".glb", "model/gltf-binary"),
        film=embedded("-test.mp4", "video/mp4"),
        sheet=embedded("-contact-sheet.png", "image/png"),
        curves=embedded(CURVES, "image/png"),
        viewer=VIEWER.read_text(encoding="utf-8"),
        camera=camera if None not in camera.values() else None,
        numbers={
            **{name: select(key) for name, key in SETTINGS.items()},
            **_measured(run),
            "faces": _faces(run, select(SETTINGS["2D prior"]), detector),
        },
        settings=OmegaConf.to_yaml(cfg),
        files={path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
    )
    with replacing(folder / PAGE) as new:
        new.write_text(text, encoding="utf-8")
    return folder / PAGE


def _files(run: Run) -> list[Path]:
    """What somebody may want to have of a run, of each the newest."""
    found: list[Path] = []
    with suppress(FileNotFoundError):
        found += sorted(path for path in run.newest("export").iterdir() if path.name != RECORD)
    for film in FILMS:
        with suppress(FileNotFoundError):
            found.append(run.newest(film))
    return [*found, *filter(Path.is_file, (run.folder / f for f in (CURVES, CONFIG, CHECKPOINT)))]


def _is_splats(files: Sequence[Path]) -> bool:
    """Whether a glb holds 3D Gaussians, which the page's viewer does not draw."""
    models = (path.read_bytes() for path in files if path.suffix == ".glb")
    return any(b"KHR_gaussian_splatting" in content for content in models)


def _measured(run: Run) -> dict[str, Any]:
    """How long the run took, and the last numbers that it logged."""
    from .host.metrics import FILE

    found: dict[str, Any] = {}
    if (run.folder / FILE).is_file():
        metrics = json.loads((run.folder / FILE).read_text(encoding="utf-8"))
        found["time"] = f"{timedelta(seconds=round(metrics['seconds']))} on {metrics['device']}"
        if metrics["peak_host_gib"]:
            found["peak memory"] = f"{metrics['peak_host_gib']:.1f} GiB"
        if metrics["peak_gpu_gib"]:
            found["peak GPU memory"] = f"{metrics['peak_gpu_gib']:.1f} GiB"
    with suppress(FileNotFoundError):
        logged = run.metrics()
        last = {name: logged[key][-1][1] for name, key in LOGGED.items() if key in logged}
        found |= {f"last {name}": f"{value:.4g}" for name, value in last.items()}
    return found


def _faces(run: Run, prior: str | None, detector: str) -> str | None:
    from .janus.detectors import find_detector
    from .janus.meter import judge
    from .janus.views import read_turntable

    if detector == "off" or detector == "auto" and "load/tiny" not in str(prior):
        return None
    views = read_turntable(run.newest("test"))
    try:
        found = find_detector("tiny" if detector == "auto" else detector)
        return judge(views.frames, views.azimuths_deg, found).in_words()
    except ValueError:  # too few views
        if detector == "auto":
            return None
        raise
