"""What a pair classifier is trained from: a small vision transformer, or DINO's last blocks."""

import copy

import torch
from threestudio_jointdreamer.priors.dino import load_dino, match_dino
from threestudio_jointdreamer.priors.pair_classifier import PairClassifier, PairHead
from threestudio_jointdreamer.weights.ldm.dino import HEAD_DIM, LAYER_NORM_EPS
from transformers import ViTConfig, ViTModel

TINY = "tiny"
TINY_IMAGE_SIZE = 64
DINO_IMAGE_SIZE = 224


def tiny_classifier() -> PairClassifier:
    """A classifier for 64 x 64 pictures with random weights, all of which learn."""
    width = 2 * HEAD_DIM
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=6,
        num_attention_heads=width // HEAD_DIM,
        intermediate_size=4 * width,
        layer_norm_eps=LAYER_NORM_EPS,
        image_size=TINY_IMAGE_SIZE,
        patch_size=8,
    )
    head = PairHead(
        feature_dim=width, hidden_dim=2 * width, image_size=TINY_IMAGE_SIZE, scales=(1.0,)
    )
    return PairClassifier(match_dino(ViTModel(config, add_pooling_layer=False)), head)


def dino_classifier(name_or_path: str, train_blocks: int, image_size: int) -> PairClassifier:
    """A new head on a DINO whose last blocks and last norm learn.

    With `train_blocks` 0 the backbone stays as it is: the head's config names it, and it is not
    saved a second time.

    Raises:
        FileNotFoundError, ValueError: as `load_dino`; or there are fewer blocks.
    """
    dino = load_dino(name_or_path, torch.device("cpu"), torch.float32, key="--backbone")
    dino = copy.deepcopy(dino)  # what is loaded may be shared, and stays as it is
    depth = dino.config.num_hidden_layers
    if not 0 <= train_blocks <= depth:
        raise ValueError(
            f"--train-blocks {train_blocks}: {name_or_path} has {depth} blocks, give 0 to {depth}."
        )
    if train_blocks:
        layers = dino.encoder.layer if hasattr(dino, "encoder") else dino.layers
        for module in (*layers[-train_blocks:], dino.layernorm):
            module.requires_grad_(True)
    head = PairHead(
        feature_dim=dino.config.hidden_size,
        image_size=image_size,
        backbone=None if train_blocks else name_or_path,
    )
    return PairClassifier(dino, head)
