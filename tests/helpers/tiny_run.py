"""A whole run of jointdreamer-system in seconds: 8x8 renders, random priors, every schedule."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jointdreamer.runs import Run

SWITCH, FADING, STEPS = 3, 5, 8


def tiny_config(sd_folder: Path, mv_folder: Path, root: Path, **changes: Any) -> dict[str, Any]:
    """An experiment's config as a plain dict.

    CFG switching is complete at step `SWITCH`, geometry fading begins at `FADING`, the energy at
    step 1, time annealing ends at step 6; checkpoints every 2 steps, validation every 4.

    Args:
        root: outputs and the text embeddings go there.
        changes: top-level keys that are merged in.
    """
    config = {
        "name": "tiny",
        "tag": "run",
        "use_timestamp": False,
        "exp_root_dir": str(root / "outputs"),
        "seed": 7,
        "data_type": "jointdreamer-multiview-camera-datamodule",
        "data": {
            "n_view": 2,
            "batch_size": [2, 4],
            "width": [8, 12],
            "height": [8, 12],
            "resolution_milestones": [4],
            "fovy_range": [38, 42],
            "camera_distance_range": [0.9, 1.1],
            "elevation_range": [0, 30],
            "eval_height": 8,
            "eval_width": 8,
            "eval_camera_distance": 2.75,
            "eval_fovy_deg": 40.0,
            "n_val_views": 2,
            "n_test_views": 9,
        },
        "system_type": "jointdreamer-system",
        "system": {
            "guidance_eval_step": 0,
            "geometry_fading": {"start_step": FADING, "lr": {"geometry.density_network": 1.0e-6}},
            "geometry_type": "implicit-volume",
            "geometry": {
                "radius": 1.0,
                "normal_type": "analytic",
                "density_bias": "blob_magic3d",
                "isosurface_resolution": 16,
                "isosurface_threshold": 1.0,
                "pos_encoding_config": {
                    "otype": "HashGrid",
                    "n_levels": 2,
                    "n_features_per_level": 2,
                    "log2_hashmap_size": 8,
                    "base_resolution": 4,
                    "per_level_scale": 2.0,
                },
                "mlp_network_config": {
                    "otype": "VanillaMLP",
                    "activation": "ReLU",
                    "output_activation": "none",
                    "n_neurons": 8,
                    "n_hidden_layers": 1,
                },
            },
            "material_type": "diffuse-with-point-light-material",
            "material": {"ambient_only_steps": 4, "soft_shading": True},
            "background_type": "solid-color-background",
            "background": {"random_aug": True},
            "renderer_type": "nerf-volume-renderer",
            "renderer": {"radius": 1.0, "num_samples_per_ray": 16},
            "prompt_processor_type": "jointdreamer-prompt-processor",
            "prompt_processor": {
                "pretrained_model_name_or_path": str(sd_folder),
                "prompt": "a green bear wearing a red hat",
                "negative_prompt": "a blue cat",
                "start_neg": 4,
                "cache_dir": str(root / "embeddings"),
            },
            "guidance_type": "jsd-guidance",
            "guidance": {
                "pretrained_model_name_or_path": str(sd_folder),
                "n_view": 2,
                "guidance_scale": [SWITCH - 1, 3.0, 6.0, SWITCH],
                "max_step_percent": [0, 0.98, 0.50, 6],
                "min_step_percent": [0, 0.98, 0.02, 6],
                "energy_weight": [0, 0.0, 0.5, 1],
                "energy_type": "jsd-multiview-energy",
                "energy": {
                    "pretrained_model_name_or_path": str(mv_folder),
                    "noise": "shared",
                    "guidance_scale": 2.0,
                },
            },
            "loss": {
                "lambda_sds": 1.0,
                "lambda_orient": [0, 0.1, 1.0, 4],
                "lambda_sparsity": 0.1,
                "lambda_opaque": 0.1,
                "lambda_z_variance": 0.1,
            },
            "optimizer": {
                "name": "AdamW",
                "args": {"betas": [0.9, 0.99], "eps": 1.0e-15},
                "params": {
                    "geometry.encoding": {"lr": 0.01},
                    "geometry.density_network": {"lr": 0.001},
                    "geometry.feature_network": {"lr": 0.001},
                },
            },
            "exporter": {"fmt": "glb"},
        },
        "trainer": {
            "max_steps": STEPS,
            "val_check_interval": 4,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "precision": 32,
        },
        "checkpoint": {"save_last": True, "save_top_k": -1, "every_n_train_steps": 2},
    }
    return OmegaConf.to_container(OmegaConf.merge(config, changes))


def logged(trial_dir: str | Path) -> dict[str, dict[int, float]]:
    """Every number that a run logged, by name and step."""
    return {name: dict(series) for name, series in Run(Path(trial_dir)).metrics().items()}


def write_tiny_config(
    path: Path, sd_folder: Path, mv_folder: Path, root: Path | None = None, **changes: Any
) -> Path:
    """`tiny_config` as a YAML file; outputs go beside it unless `root` says otherwise."""
    config = tiny_config(sd_folder, mv_folder, root or path.parent, **changes)
    OmegaConf.save(OmegaConf.create(config), path)
    return path
