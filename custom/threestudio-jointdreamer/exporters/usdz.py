"""A textured mesh as USDZ, which phones open."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import trimesh

LAYER = """#usda 1.0
(defaultPrim = "Asset"; metersPerUnit = 1; upAxis = "Y")
def Xform "Asset" {
    def Mesh "Mesh" (prepend apiSchemas = ["MaterialBindingAPI"]) {
        uniform token subdivisionScheme = "none"
        rel material:binding = </Asset/Material>
    }
    def Material "Material" {
        token outputs:surface.connect = </Asset/Material/Surface.outputs:surface>
        def Shader "Surface" {
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </Asset/Material/Texture.outputs:rgb>
            float inputs:roughness = 1
            token outputs:surface
        }
        def Shader "Texture" {
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @texture.png@
            token inputs:sourceColorSpace = "sRGB"
            float2 inputs:st.connect = </Asset/Material/Coordinates.outputs:result>
            float3 outputs:rgb
        }
        def Shader "Coordinates" {
            uniform token info:id = "UsdPrimvarReader_float2"
            string inputs:varname = "st"
            float2 outputs:result
        }
    }
}"""


def usdz(mesh: trimesh.Trimesh) -> bytes:
    """A package of the mesh and its texture.

    Raises:
        ValueError: usd-core is not installed.
    """
    try:
        from pxr import Sdf, Usd, UsdGeom, UsdUtils
    except ImportError as error:
        raise ValueError("system.exporter.fmt=usdz needs OpenUSD: pip install usd-core.") from error
    layer = Sdf.Layer.CreateAnonymous()
    layer.ImportFromString(LAYER)
    stage = Usd.Stage.Open(layer)
    shape = UsdGeom.Mesh.Get(stage, "/Asset/Mesh")
    shape.CreatePointsAttr(np.float32(mesh.vertices))
    shape.CreateExtentAttr(np.float32(mesh.bounds))
    shape.CreateFaceVertexCountsAttr(np.full(len(mesh.faces), 3, np.int32))
    shape.CreateFaceVertexIndicesAttr(np.int32(mesh.faces).reshape(-1))
    shape.CreateNormalsAttr(np.float32(mesh.vertex_normals))
    kind, each = Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
    shape.SetNormalsInterpolation(each)
    UsdGeom.PrimvarsAPI(shape).CreatePrimvar("st", kind, each).Set(np.float32(mesh.visual.uv))
    with TemporaryDirectory() as folder:
        mesh.visual.material.baseColorTexture.save(Path(folder, "texture.png"))
        layer.Export(f"{folder}/model.usdc")
        UsdUtils.CreateNewARKitUsdzPackage(f"{folder}/model.usdc", f"{folder}/model.usdz")
        return Path(folder, "model.usdz").read_bytes()
