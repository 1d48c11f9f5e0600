"""What threestudio 0.2.3 needs on today's packages beyond what its own documentation says."""

from dataclasses import dataclass

EXTRA = 'pip install -e ".[threestudio]" in the clone of threestudio-jointdreamer'
GITHUB = "git+https://github.com"


@dataclass(frozen=True)
class Need:
    """Something that `import threestudio` imports, whatever a config names.

    Attributes:
        module: as threestudio imports it; names: what it takes out of it.
        package: as pip knows it; fits: the versions that work, as a requirement of pip's.
        mend: the command that installs it; reason: what threestudio's documentation does not say.
    """

    module: str
    package: str
    names: tuple[str, ...] = ()
    fits: str = ""
    mend: str = EXTRA
    reason: str = ""


NEEDS = (
    Need(
        "torchvision",
        "torchvision",
        mend="pip install torch torchvision, both at once",
        reason="only the build that belongs to the installed torch can be imported, and pip "
        "replaces torch to fit another one",
    ),
    Need(
        "nerfacc",
        "nerfacc",
        fits="==0.5.3",
        mend="pip install nerfacc==0.5.3",
        reason="requirements.txt builds 0.5.2 from git, where torch is hidden from the build; "
        "0.5.3 is a plain wheel with the same functions that compiles its CUDA at its first use "
        "(this takes nvcc on the path, and about a minute)",
    ),
    Need(
        "tinycudann",
        "tinycudann",
        names=("Encoding", "free_temporary_memory"),
        mend="jointdreamer install --threestudio PATH links ours, in PyTorch; or NVIDIA's: "
        f'pip install "setuptools<82" ninja && pip install --no-build-isolation '
        f'"{GITHUB}/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"',
        reason="build isolation hides torch from its build, and it imports pkg_resources, which "
        "setuptools 82 dropped; it is imported before any extension is",
    ),
    Need(
        "nvdiffrast.torch",
        "nvdiffrast",
        mend=f"pip install setuptools wheel ninja && pip install --no-build-isolation "
        f"{GITHUB}/NVlabs/nvdiffrast.git",
        reason="its build imports torch, which build isolation hides",
    ),
    Need(
        "envlight",
        "envlight",
        mend=f"pip install {GITHUB}/ashawkey/envlight.git, after nvdiffrast",
        reason="it imports nvdiffrast",
    ),
    Need(
        "igl",
        "libigl",
        names=("fast_winding_number_for_meshes", "point_mesh_squared_distance", "read_obj"),
        fits="<2.6",
        mend='pip install "libigl<2.6"',
        reason="2.6 renamed functions that threestudio imports, and older ones have no wheels for "
        "Python 3.13 and later: use 3.10 to 3.12",
    ),
    Need(
        "diffusers",
        "diffusers",
        fits=">=0.35",
        reason="requirements.txt's <0.20 imports cached_download, which huggingface_hub 0.26 "
        "dropped; threestudio's imports all work with the current one",
    ),
    Need(
        "transformers",
        "transformers",
        fits=">=4.50",
        reason="requirements.txt's 4.28.1 needs tokenizers 0.13, without wheels for Python 3.12 "
        "and later",
    ),
    Need(
        "pytorch_lightning",
        "pytorch-lightning",
        fits=">=2.5.1",
        reason="requirements.txt's lightning 2.0.0 is another package, which threestudio does not "
        "import and which holds packaging and rich back",
    ),
    Need(
        "cv2",
        "opencv-python-headless",
        reason="controlnet_aux brings it; opencv-python beside it overwrites its files",
    ),
    Need("controlnet_aux", "controlnet_aux"),
    Need("wandb", "wandb"),
    Need("typeguard", "typeguard"),
    Need("trimesh", "trimesh"),
    Need("xatlas", "xatlas"),
    Need("mcubes", "PyMCubes"),
    Need("imageio", "imageio"),
    Need("imageio_ffmpeg", "imageio-ffmpeg"),
    Need("einops", "einops"),
    Need("accelerate", "accelerate"),
    Need("torchmetrics", "torchmetrics"),
    Need("matplotlib", "matplotlib"),
    Need("scipy", "scipy"),
    Need(
        "IPython",
        "ipython",
        reason="extern/ldm_zero123 imports it, for every config",
    ),
)

NOT_NEEDED = (
    "Do not run pip install -r requirements.txt: its pins (transformers, diffusers, lightning, "
    "gradio) replace packages that this extension needs by old ones.",
    "Of requirements.txt only some configs of threestudio's own need bitsandbytes (0.38.1 knows "
    "CUDA up to 12.1), xformers, sentencepiece (DeepFloyd), kornia, taming-transformers, CLIP "
    "(Zero-1-to-3), gradio and ipywidgets (its web page), and pysdf (shapes from meshes; no wheels "
    "for Python 3.11 and 3.12, and its build needs Eigen): none of them is imported at the start.",
)
