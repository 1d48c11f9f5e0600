"""Measures runs: every metric of every asset, with embeddings that are computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from threestudio_jointdreamer.systems.picture_grid import Tile
from torch import Tensor

from ..janus.verdict import Verdict
from ..progress import track
from ..prompt_lists import read_prompts
from ..runs import read_picture
from . import TINY_CLIP
from .assets import Asset, Frame, find_runs, read_assets
from .clip_models import Clip, load_clip
from .clip_score import clip_score, similarities
from .feature_store import FeatureStore
from .fid import FeatureExtractor, find_extractor, frechet_distance, reference_pictures
from .r_precision import distinct, place_of, retrieve
from .rows import AssetRow, MethodRow, by_method
from .smoothness import CURVE, roughness
from .verdicts import choose_detector, judge_assets

CHUNK = 64  # reference pictures embedded, and kept, at a time


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and with what.

    Args:
        rows: one for each asset, in the order of `assets`.
        settings: what a reader has to know about the numbers, by name.
        skipped: why runs were left out.
    """

    assets: Sequence[Asset]
    rows: Sequence[AssetRow]
    methods: Sequence[MethodRow]
    settings: dict[str, str]
    skipped: Sequence[str]


def measure_runs(
    runs: Sequence[Path],
    features: Path,
    prompts: Path | None = None,
    clip_name: str = TINY_CLIP,
    fid_reference: Path | None = None,
    fid_features: str = "auto",
    janus: str = "auto",
    render_faces: bool = False,
    views: int | None = None,
    device_name: str | None = None,
    skip_unfinished: bool = False,
) -> Evaluation:
    """All that `jointdreamer evaluate` measures, with its options.

    Args:
        features: a folder that keeps what was computed of pictures.
    """
    if views is not None and views < 1:
        raise ValueError(f"--views {views} must be 1 or more.")
    detector = choose_detector(janus, clip_name)
    references = reference_pictures(fid_reference) if fid_reference else []
    given = read_prompts(prompts, "--prompts") if prompts else None
    assets, skipped = read_assets(find_runs(runs), skip_unfinished)
    candidates = distinct(given or [asset.prompt for asset in assets])

    if device_name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU. Use --device cpu.")
    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    clip = load_clip(clip_name, device)
    extractor = find_extractor(fid_features, clip, device) if references else None
    store = FeatureStore(features)
    verdicts: Sequence[Verdict | None] = [None] * len(assets)
    described = "none"
    if detector:
        verdicts = judge_assets(assets, detector, store, render_faces, device_name)
        described = detector.name + ("" if detector.calibrated else ", uncalibrated")
    rows = _measure_assets(assets, verdicts, clip, candidates, store, views)
    fids = _measure_fids(assets, references, extractor, store, views) if extractor else {}
    source = f"among {len(candidates)} prompts of {prompts or 'these runs'}"
    settings = {
        "CLIP": clip.name,
        "R-Precision": source if len(candidates) > 1 else "among other prompts only, see --prompts",
        "Janus detector": described,
        "FID": f"{extractor.name} against {fid_reference}" if extractor else "none",
    }
    return Evaluation(assets, rows, by_method(rows, fids), settings, skipped)


def _measure_assets(
    assets: Sequence[Asset],
    verdicts: Sequence[Verdict | None],
    clip: Clip,
    candidates: Sequence[str],
    store: FeatureStore,
    views: int | None,
) -> list[AssetRow]:
    own = list(dict.fromkeys(asset.prompt for asset in assets))
    listed, asked = clip.texts([*candidates, *own]).split([len(candidates), len(own)])
    rows = []
    for asset, verdict in track(list(zip(assets, verdicts, strict=True)), "assets"):
        frames, text = asset.every(views), asked[own.index(asset.prompt)]
        images = _features(clip, clip.images, frames, store)
        place, texts = place_of(asset.prompt, candidates), listed
        if place is None:  # it joins the list
            place, texts = len(listed), torch.cat([listed, text[None]])
        choice = len(texts) > 1
        r_precision, rank = retrieve(similarities(images, texts), place) if choice else (None, None)
        row = AssetRow(
            run=str(asset.run.folder),
            method=asset.method,
            seed=asset.seed,
            prompt=asset.prompt,
            step=asset.step,
            views=len(frames),
            clip=clip.name,
            clip_score=clip_score(images, text),
            r_precision=r_precision,
            rank=rank,
            candidates=len(texts) if choice else None,
            roughness=roughness(asset.curve(CURVE)),
            faces=verdict and verdict.n_faces,
            face_views=verdict and len(verdict.scores),
            face_extents_deg=verdict and " ".join(f"{d:.0f}" for d in verdict.extents_deg),
            janus=verdict and verdict.janus,
            faceless=verdict and verdict.faceless,
        )
        rows.append(row)
    return rows


def _measure_fids(
    assets: Sequence[Asset],
    references: Sequence[Path],
    extractor: FeatureExtractor,
    store: FeatureStore,
    views: int | None,
) -> dict[str, dict[str, Any]]:
    """The FID of each method's frames, all its assets together, against the references."""

    def embed(paths: Sequence[Path]) -> Tensor:
        return store.features(
            extractor.identity, paths, lambda: extractor.features(list(map(read_picture, paths)))
        )

    chunks = [references[start : start + CHUNK] for start in range(0, len(references), CHUNK)]
    real = torch.cat([embed(chunk) for chunk in track(chunks, "FID references")])
    fake: dict[str, list[Tensor]] = {}
    for asset in track(assets, "FID renders"):
        features = _features(extractor, extractor.features, asset.every(views), store)
        fake.setdefault(asset.method, []).append(features)
    return {
        method: {
            "fid": frechet_distance(real, torch.cat(features)),
            "fid_features": extractor.name,
            "fid_renders": sum(map(len, features)),
            "fid_references": len(references),
        }
        for method, features in fake.items()
    }


def _features(
    model: Clip | FeatureExtractor,
    compute: Callable[[Sequence[Tile]], Tensor],
    frames: Sequence[Frame],
    store: FeatureStore,
) -> Float[Tensor, "V D"]:
    return store.features(
        f"{model.identity}, renders of aspect {frames[0].aspect}",
        [frame.path for frame in frames],
        lambda: compute([frame.picture() for frame in frames]),
    )
