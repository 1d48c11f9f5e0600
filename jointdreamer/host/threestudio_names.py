"""Registered names of threestudio 0.2.3 that the standalone host leaves out, and why."""

import re

NEEDS = {
    "tetrahedra-sdf-grid": "its tetrahedral grids (load/tets) and nvdiffrast",
    "nvdiff-rasterizer": "nvdiffrast",
}
NAMES = frozenset(
    """
    co3d-datamodule control4d-multiview-system custom-mesh deep-floyd-guidance
    deep-floyd-prompt-processor dreamfusion-system dummy-exporter dummy-prompt-processor
    eff-random-camera-datamodule efficient-dreamfusion-system fantasia3d-system
    gan-volume-renderer hybrid-rgb-latent-material image-condition-dreamfusion-system
    implicit-sdf instructnerf2nerf-system latentnerf-system magic123-system magic3d-system
    multiview-camera-datamodule neural-radiance-material neus-volume-renderer nvdiff-rasterizer
    patch-renderer pbr-material perceptual-loss prolificdreamer-system random-camera-datamodule
    sd-latent-adapter-material sdi-system single-image-datamodule sjc-system
    stable-diffusion-controlnet-guidance stable-diffusion-guidance
    stable-diffusion-instructpix2pix-guidance stable-diffusion-sdi-guidance
    stable-diffusion-unified-guidance stable-diffusion-vsd-guidance stable-zero123-guidance
    tetrahedra-sdf-grid textmesh-system textured-background volume-grid zero123-guidance
    zero123-simple-system zero123-system zero123-unified-guidance
    """.split()
)


def why_not_here(key: str, name: str) -> str | None:
    """One sentence on a name that only threestudio has, and where to run it; else None.

    Args:
        key: the config key that holds the name.
        name: as in the config, mixins included (`"main:mixin"`).
    """
    found = next((part for part in re.split("[:,]", name) if part in NAMES), None)
    if found is None:
        return None
    needs = f" and needs {NEEDS[found]}" if found in NEEDS else ""
    return (
        f"{key}='{name}' is threestudio's own{needs}, which the standalone host does not have: run "
        "`jointdreamer install --threestudio PATH` and then that checkout's launch.py, or set "
        "THREESTUDIO_ROOT=PATH and use this one."
    )
