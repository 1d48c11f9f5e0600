"""`jointdreamer-mesh-renderer`: pictures of a mesh, by nvdiffrast or by rays through embree."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import threestudio
import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Bool, Float, Int
from threestudio.models.mesh import Mesh
from threestudio.models.renderers.base import Renderer
from threestudio.utils.ops import chunk_batch
from torch import Tensor

from ..config_values import parse_fields

CHUNK = 2**18  # points that are evaluated at once outside training
NEEDS = {
    "nvdiffrast": "an NVIDIA GPU and pip install git+https://github.com/NVlabs/nvdiffrast",
    "embree": "pip install 'embreex>=2.17.7'",
}


@dataclass
class Seen:
    """What M of the samples in B pictures of h x w show of a mesh."""

    hit: Bool[Tensor, "B h w"]  # those; the others show the background
    points: Float[Tensor, "M 3"]
    normals: Float[Tensor, "M 3"]
    finish: Callable[[Float[Tensor, "B h w C"]], Float[Tensor, "B H W C"]]  # samples to pixels


@threestudio.register("jointdreamer-mesh-renderer")
class MeshRenderer(Renderer):
    """Colours of `jointdreamer-mesh`, or another mesh with features, where each pixel sees it.

    Config:
        backend: `nvdiffrast` (GPU; antialiased, so that silhouettes move vertices, too), `embree`
            (CPU; only what is seen inside of silhouettes does), `auto`: the first that works here.
        supersampling: rays along each side of a pixel, for embree.
    """

    @dataclass
    class Config(Renderer.Config):
        backend: Annotated[str, ("auto", *NEEDS)] = "auto"
        supersampling: Annotated[int, "[1, 16]"] = 2

        def __post_init__(self) -> None:
            parse_fields(self, "system.renderer")

    cfg: Config

    def configure(self, *parts: Any, **named_parts: Any) -> None:
        super().configure(*parts, **named_parts)
        works = {
            "nvdiffrast": torch.cuda.is_available() and find_spec("nvdiffrast") is not None,
            "embree": trimesh.ray.has_embree,
        }
        wanted = [*works] if self.cfg.backend == "auto" else [self.cfg.backend]
        self._backend = next((name for name in wanted if works[name]), None)
        if self._backend is None:
            needs = ", or ".join(NEEDS[name] for name in wanted)
            raise ValueError(f"system.renderer.backend={self.cfg.backend} needs {needs}.")
        threestudio.info(f"jointdreamer-mesh-renderer draws with {self._backend}.")
        self._context: Any = None  # nvdiffrast's
        self._cast: tuple[Tensor, trimesh.Trimesh] | None = None  # embree's, of these vertices

    def forward(
        self,
        rays_o: Float[Tensor, "B H W 3"],
        rays_d: Float[Tensor, "B H W 3"],
        light_positions: Float[Tensor, "B 3"],
        mvp_mtx: Float[Tensor, "B 4 4"],
        c2w: Float[Tensor, "B 4 4"],
        fovy: Float[Tensor, "B"],
        height: int,
        bg_color: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pictures [B H W C]: comp_rgb, comp_rgb_bg, opacity, comp_normal (in 0..1); the `mesh`.

        Args:
            rays_d, fovy: unit vectors through the pixels' centres; radians.
            bg_color: [B H W C] or [C], in place of the background's colours.
            kwargs: the rest of the batch, for the material in training.
        """
        mesh = self.geometry.isosurface()
        if self._backend == "nvdiffrast":
            if rays_d.shape[1] != height:
                raise ValueError("system.render_chunk needs system.renderer.backend=embree.")
            seen = self._rasterize(mesh, mvp_mtx, rays_d.shape[1:3])
        else:
            size = 2 * torch.tan(fovy / 2) / height
            dirs = subpixel_rays(rays_d, c2w, size, self.cfg.supersampling)
            seen = self._trace(mesh, rays_o[:, :1, :1].expand_as(dirs), dirs)
        view = seen.hit.nonzero()[:, 0]
        rgb = self._colors(seen, c2w[view, :3, 3], light_positions[view], kwargs)

        background = self.background(dirs=rays_d)
        behind = background if bg_color is None else bg_color.expand_as(background)
        n = seen.hit.shape[1] // behind.shape[1]
        behind = behind.repeat_interleave(n, dim=1).repeat_interleave(n, dim=2)

        def picture(values: Float[Tensor, "M C"], others: Tensor) -> Float[Tensor, "B H W C"]:
            return seen.finish(others.masked_scatter(seen.hit[..., None], values.to(others)))

        nothing = torch.zeros_like(behind[..., :1])
        out = {"comp_rgb": picture(rgb, behind), "comp_rgb_bg": background, "mesh": mesh}
        out["opacity"] = picture(torch.ones_like(seen.points[:, :1]), nothing)
        out["comp_normal"] = picture((seen.normals + 1) / 2, nothing.expand(-1, -1, -1, 3))
        return out

    def _colors(
        self, seen: Seen, eyes: Tensor, lights: Tensor, extra: dict[str, Any]
    ) -> Float[Tensor, "M C"]:
        def color(points: Tensor, **of_points: Tensor) -> Tensor:
            of_points |= self.geometry(points) | (extra if self.training else {})
            return self.material(positions=points, **of_points)

        of_points = {"viewdirs": F.normalize(seen.points - eyes, dim=-1), "light_positions": lights}
        if self.material.requires_normal:
            of_points["shading_normal"] = seen.normals
        return chunk_batch(color, 0 if self.training else CHUNK, seen.points, **of_points)

    def _rasterize(
        self, mesh: Mesh, mvp_mtx: Float[Tensor, "B 4 4"], size: tuple[int, int]
    ) -> Seen:
        import nvdiffrast.torch as dr

        if self._context is None:
            self._context = dr.RasterizeCudaContext(device=mesh.v_pos.device)
        faces = mesh.t_pos_idx.int()
        homogeneous = F.pad(mesh.v_pos, (0, 1), value=1.0)[:, None]
        clip = (mvp_mtx[:, None] * homogeneous).sum(dim=-1)  # no product that autocast would halve
        drawn, _ = dr.rasterize(self._context, clip, faces, size)
        hit = drawn[..., 3] > 0
        points, normals = (
            dr.interpolate(values.float()[None].contiguous(), drawn, faces)[0][hit]
            for values in (mesh.v_pos, mesh.v_nrm)
        )

        def antialias(picture: Tensor) -> Tensor:
            return dr.antialias(picture.float().contiguous(), drawn, clip, faces)

        return Seen(hit, points, F.normalize(normals, dim=-1), antialias)

    def _trace(
        self, mesh: Mesh, origins: Float[Tensor, "B h w 3"], dirs: Float[Tensor, "B h w 3"]
    ) -> Seen:
        face = self._first_faces(mesh, origins, dirs)
        hit = face >= 0
        corners = mesh.t_pos_idx[face[hit]]
        points, normals = on_triangles(mesh, corners, origins[hit], dirs[hit])
        return Seen(hit, points, normals, partial(average, self.cfg.supersampling))

    def _first_faces(self, mesh: Mesh, origins: Tensor, dirs: Tensor) -> Int[Tensor, "B h w"]:
        """The face that each ray meets first, or -1; without a gradient."""
        v_pos = mesh.v_pos.detach()
        if self._cast is None or not torch.equal(self._cast[0], v_pos):
            arrays = (v_pos.cpu().numpy(), mesh.t_pos_idx.cpu().numpy())
            self._cast = v_pos.clone(), trimesh.Trimesh(*arrays, process=False)
        rays = (rays.detach().reshape(-1, 3).cpu().double().numpy() for rays in (origins, dirs))
        face = np.asarray(self._cast[1].ray.intersects_first(*rays))
        return torch.from_numpy(face).long().to(dirs.device).view(dirs.shape[:-1])


def subpixel_rays(
    rays_d: Float[Tensor, "B H W 3"], c2w: Float[Tensor, "B 4 4"], size: Float[Tensor, "B"], n: int
) -> Float[Tensor, "B nH nW 3"]:
    """Unit vectors through n x n places in each pixel, which is `size` wide at distance 1."""
    right, up, back = c2w[:, None, None, :3, :3].unbind(dim=-1)
    plane = rays_d / (rays_d * -back).sum(dim=-1, keepdim=True)
    place = ((torch.arange(n, device=size.device) + 0.5) / n - 0.5) * size[:, None]  # B n
    across = place[:, None, None, None, :, None] * right[:, :, None, :, None]
    down = place[:, None, :, None, None, None] * -up[:, :, None, :, None]
    fine = plane[:, :, None, :, None] + across + down  # B H n W n 3
    return F.normalize(fine.flatten(3, 4).flatten(1, 2), dim=-1)


def on_triangles(
    mesh: Mesh,
    corners: Int[Tensor, "M 3"],
    origins: Float[Tensor, "M 3"],
    dirs: Float[Tensor, "M 3"],
) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 3"]]:
    """Where rays meet the planes of triangles, and the mesh's normals there; vertices move both."""
    a, b, c = mesh.v_pos[corners].unbind(dim=1)
    plane = torch.linalg.cross(b - a, c - a)
    facing = (dirs * plane).sum(-1, keepdim=True)
    facing = torch.where(facing.abs() < 1e-12, torch.full_like(facing, 1e-12), facing)
    points = origins + dirs * ((a - origins) * plane).sum(-1, keepdim=True) / facing
    area = plane.square().sum(-1, keepdim=True).clamp_min(1e-20)
    of_b = (torch.linalg.cross(points - a, c - a) * plane).sum(-1, keepdim=True) / area
    of_c = (torch.linalg.cross(b - a, points - a) * plane).sum(-1, keepdim=True) / area
    weights = torch.stack([1 - of_b - of_c, of_b, of_c], dim=1)
    return points, F.normalize((weights * mesh.v_nrm[corners]).sum(dim=1), dim=-1)


def average(n: int, picture: Float[Tensor, "B nH nW C"]) -> Float[Tensor, "B H W C"]:
    """Of n x n samples a pixel."""
    return F.avg_pool2d(picture.permute(0, 3, 1, 2), n).permute(0, 2, 3, 1)
