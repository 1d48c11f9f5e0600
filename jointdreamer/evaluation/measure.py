"""Measures assets: every metric's row, with embeddings that are computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from rich.progress import track
from threestudio_jointdreamer.systems.picture_grid import Tile
from torch import Tensor

from ..janus import Verdict
from .assets import Asset, Frame
from .clip_models import Clip
from .clip_score import clip_score, similarities
from .feature_store import FeatureStore
from .fid import Extractor, frechet_distance, read_picture
from .r_precision import place_of, retrieve
from .rows import AssetRow, Fid, MethodRow
from .smoothness import CURVE, roughness

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


def measure_assets(
    assets: Sequence[Asset],
    clip: Clip,
    candidates: Sequence[str],
    store: FeatureStore,
    views: int | None = None,
    verdicts: Sequence[Verdict] | None = None,
) -> list[AssetRow]:
    """A row of numbers for each asset.

    Args:
        candidates: the prompts of R-Precision. An asset's own joins its list where it is missing.
        store: keeps image embeddings between calls.
        views: how many frames of a turntable CLIP looks at; None for all.
        verdicts: the Janus meter's, one for each asset, or None.
    """
    own = list(dict.fromkeys(asset.prompt for asset in assets))
    listed, asked = clip.texts([*candidates, *own]).split([len(candidates), len(own)])
    rows = []
    for number, asset in enumerate(track(assets, "assets")):
        frames = asset.every(views)
        images = _features(clip.identity, clip.images, frames, store)
        text, place, texts = (
            asked[own.index(asset.prompt)],
            place_of(asset.prompt, candidates),
            listed,
        )
        if place is None:
            place, texts = len(listed), torch.cat([listed, text[None]])
        found = retrieve(similarities(images, texts), place) if len(texts) > 1 else None
        verdict = verdicts[number] if verdicts else None
        row = AssetRow(
            run=str(asset.run.folder),
            method=asset.method,
            seed=asset.seed,
            prompt=asset.prompt,
            step=asset.step,
            views=len(frames),
            clip=clip.name,
            clip_score=clip_score(images, text),
            r_precision=found and found.r_precision,
            rank=found and found.rank,
            candidates=found and found.candidates,
            roughness=_roughness(asset),
            faces=verdict and verdict.n_faces,
            face_views=verdict and len(verdict.scores),
            face_extents_deg=verdict and " ".join(f"{d:.0f}" for d in verdict.extents_deg),
            janus=verdict and verdict.janus,
            faceless=verdict and verdict.faceless,
        )
        rows.append(row)
    return rows


def measure_fids(
    assets: Sequence[Asset],
    references: Sequence[Path],
    extractor: Extractor,
    store: FeatureStore,
    views: int | None = None,
) -> dict[str, Fid]:
    """The FID of each method's frames, all its assets together, against the references.

    Raises:
        ValueError: a reference does not open, or a method has one frame only.
    """

    def embed(paths: Sequence[Path]) -> Tensor:
        return store.features(
            extractor.identity, paths, lambda: extractor([read_picture(path) for path in paths])
        )

    chunks = [references[start : start + CHUNK] for start in range(0, len(references), CHUNK)]
    real = torch.cat([embed(chunk) for chunk in track(chunks, "FID references")])
    fake: dict[str, list[Tensor]] = {}
    for asset in track(assets, "FID renders"):
        features = _features(extractor.identity, extractor, asset.every(views), store)
        fake.setdefault(asset.method, []).append(features)
    fids = {}
    for method, features in fake.items():
        renders = torch.cat(features)
        distance = frechet_distance(real, renders)
        fids[method] = Fid(distance, extractor.name, len(renders), len(real))
    return fids


def _features(
    identity: str,
    compute: Callable[[Sequence[Tile]], Tensor],
    frames: Sequence[Frame],
    store: FeatureStore,
) -> Float[Tensor, "V D"]:
    return store.features(
        f"{identity}, renders of aspect {frames[0].aspect}",
        [frame.path for frame in frames],
        lambda: compute([frame.picture() for frame in frames]),
    )


def _roughness(asset: Asset) -> float | None:
    try:
        return roughness(asset.run.metrics().get(CURVE, []))
    except FileNotFoundError:  # a run without logs has renders all the same
        return None
