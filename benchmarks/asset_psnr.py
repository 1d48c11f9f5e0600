"""How near a run's textured glb is to the run's own renders, from eight sides.

    python -m benchmarks.asset_psnr outputs/demo/RUN --out docs/results/asset-psnr.csv

The mesh is rendered without light, as a material of colours alone is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from omegaconf import OmegaConf
from scipy.ndimage import binary_erosion, map_coordinates

from benchmarks.measure import load_host
from jointdreamer.csv_table import write_csv
from jointdreamer.runs import CONFIG, Run, read_picture, turntable

AZIMUTHS = tuple(range(0, 360, 45))  # degrees
SAMPLES = 3  # rays along a pixel's side
OUTLINE = 4  # pixels from where the mesh ends


def render(
    mesh: trimesh.Trimesh, c2w: Float[np.ndarray, "4 4"], fovy: float, size: int
) -> Float[np.ndarray, "size size 4"]:
    """A textured mesh without light: sRGB in 0..1, times the opacity, and that.

    Args:
        c2w: camera to the mesh's world (OpenGL).
        fovy: radians.
    """
    n = size * SAMPLES
    at = ((np.arange(n) + 0.5) / n * 2 - 1) * np.tan(fovy / 2)
    x, y = np.meshgrid(at, -at)
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3) @ c2w[:3, :3].T
    origins = np.broadcast_to(c2w[:3, 3], rays.shape)
    points, ray, face = mesh.ray.intersects_location(origins, rays, multiple_hits=False)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
    u, v = np.einsum("nk,nkc->cn", weights, mesh.visual.uv[mesh.faces[face]])
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGBA")) / 255
    texel = np.stack([(1 - v) * texture.shape[0] - 0.5, u * texture.shape[1] - 0.5])
    seen = np.zeros((n * n, 4))
    for channel in range(4):
        seen[ray, channel] = map_coordinates(texture[..., channel], texel, order=1, mode="nearest")
    return seen.reshape(size, SAMPLES, size, SAMPLES, 4).mean(axis=(1, 3))


def compare(run: Run) -> list[dict[str, object]]:
    """A row for each side: PSNR in dB, and the outline's share of the squared error."""
    from threestudio_jointdreamer.data.cameras import look_at, orbit
    from threestudio_jointdreamer.exporters.mesh_exporter import TO_Y_UP
    from threestudio_jointdreamer.systems.turntable import nearest_views

    data = OmegaConf.load(run.folder / CONFIG).data
    mesh = trimesh.load(next(run.newest("export").glob("*.glb")), force="mesh", process=False)
    views = turntable(run.newest("test"))
    rows = []
    for index in nearest_views(views.azimuths_deg, AZIMUTHS):
        place = (data.eval_elevation_deg, views.azimuths_deg[index], data.eval_camera_distance)
        position = orbit(*(torch.tensor([float(number)]) for number in place))
        c2w = look_at(position, 0 * position, torch.tensor([[0.0, 0.0, 1.0]]))[0].numpy()
        c2w[:3] = TO_Y_UP @ c2w[:3]
        wanted = read_picture(views.paths[index], views.aspect or 1) / 255
        seen = render(mesh, c2w, np.radians(data.eval_fovy_deg), len(wanted))
        opacity = seen[..., 3:]
        behind = (1 - opacity) * wanted[0, 0]  # the corner shows no asset
        error = (seen[..., :3] + behind - wanted) ** 2
        inside = binary_erosion(opacity[..., 0] == 1, iterations=OUTLINE)
        row = {"run": run.folder.name, "azimuth": round(views.azimuths_deg[index]) % 360}
        row["psnr_db"] = round(-10 * np.log10(error.mean()), 2)
        row["outline_share"] = round(1 - error[inside].sum() / error.sum(), 3)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="tested and exported runs")
    parser.add_argument("--out", type=Path, default=Path("outputs/asset-psnr.csv"))
    args = parser.parse_args()
    load_host()
    rows = [row for folder in args.runs for row in compare(Run(folder))]
    write_csv(args.out, rows)
    for folder in args.runs:
        found = [row["psnr_db"] for row in rows if row["run"] == folder.name]
        print(f"{folder.name}: {np.mean(found):.1f} dB, at least {min(found):.1f}")
    print(args.out)


if __name__ == "__main__":
    main()
