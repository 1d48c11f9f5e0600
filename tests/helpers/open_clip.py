"""A small random model of open_clip's own classes, for tests that run where it is installed."""

import json
from pathlib import Path

import pytest
import torch

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_open_clip(folder: Path) -> str:
    """Writes it, and returns its name; skips the test where open_clip does not import."""
    try:
        from open_clip import CLIP
    except Exception:  # its torchvision may belong to another torch
        pytest.skip("open_clip does not import: extra `clip`")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    torch.save(CLIP(**CONFIG).state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"open_clip:local-dir:{folder}"
