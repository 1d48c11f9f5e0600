"""The fused residual blocks against diffusers' own, and their kernels against PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from threestudio_jointdreamer.priors import group_norm
from threestudio_jointdreamer.priors.fused_resnet import (
    FusedResnetBlock,
    FusedTransformer,
    fuse_blocks,
)
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.schedule import NoiseSchedule
from torch import Tensor, nn

from jointdreamer.testing.random_priors import build_stable_diffusion, tiny_vae

SMALL = {"block_out_channels": (32,), "down_block_types": ("DownBlock2D",)}
SMALL |= {"up_block_types": ("UpBlock2D",), "cross_attention_dim": 8}
SCHEDULE = NoiseSchedule(torch.linspace(0.999, 0.001, 1000))


def encode(vae: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.requires_grad_()
    y = vae.encode(x).latent_dist.mean
    return y, torch.autograd.grad(y.square().sum(), x)[0]


def test_a_vae_encodes_and_differentiates_as_diffusers():
    torch.manual_seed(0)
    vae = tiny_vae().double().requires_grad_(False).eval()
    x = torch.rand(2, 3, 64, 64, dtype=torch.double)
    plain, names = encode(vae, x), list(vae.state_dict())
    assert fuse_blocks(vae) > 0
    for ours, theirs in zip(encode(vae, x), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert sorted(vae.state_dict()) == sorted(names)


@pytest.mark.parametrize("linear", [False, True])
def test_a_unet_predicts_as_diffusers(tmp_path, linear):
    folder = build_stable_diffusion(tmp_path) / "unet"
    config = UNet2DConditionModel.load_config(folder) | {"use_linear_projection": linear}
    unet = UNet2DConditionModel.from_config(config).double().requires_grad_(False).eval()
    inputs = torch.randn(2, 4, 16, 16).double(), torch.tensor([3, 500]), torch.randn(2, 5, 128)
    inputs = *inputs[:2], inputs[2].double()
    plain = unet(*inputs).sample
    fuse_blocks(unet)
    transformers = sum(isinstance(module, FusedTransformer) for module in unet.modules())
    assert transformers == (4 if linear else 0)
    torch.testing.assert_close(unet(*inputs).sample, plain, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_gives_the_same_gradient():
    torch.manual_seed(0)
    vae = tiny_vae().double().requires_grad_(False).eval()
    prior = LatentPrior(UNet2DConditionModel(sample_size=16, **SMALL), SCHEDULE, vae)
    assert fuse_blocks(vae) > 0
    rgb = torch.rand(3, 3, 64, 64, dtype=torch.double)

    def gradient(chunk):
        x = rgb.clone().requires_grad_()
        torch.manual_seed(1)
        return torch.autograd.grad(prior.encode(x, chunk=chunk).square().sum(), x)[0]

    for chunk in (1, 2, 3):
        torch.testing.assert_close(gradient(chunk), gradient(None), rtol=1e-9, atol=1e-12)


def test_what_is_trained_or_changed_is_left_alone():
    vae = tiny_vae().eval()
    assert fuse_blocks(vae) == 0
    vae.requires_grad_(False)
    block = vae.encoder.down_blocks[0].resnets[0]
    block.conv1 = nn.Sequential(block.conv1)  # as an adapter's layer around it
    fuse_blocks(vae)
    assert vae.encoder.down_blocks[0].resnets[0] is block
    assert isinstance(vae.encoder.down_blocks[1].resnets[0], FusedResnetBlock)


def test_kernels_in_tritons_interpreter():
    pytest.importorskip("triton", minversion="3.6", reason="no Triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        for sizes in ((2, 96, 32, 16), (1, 64, 32, 7)):
            compare_kernels(*sizes)
        return
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "interpreter", __file__]
    environment, root = os.environ | {"TRITON_INTERPRET": "1"}, Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def compare_kernels(batch, channels, groups, size):
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, channels).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(batch, channels, size, size) + 3
    x = x.contiguous(memory_format=torch.channels_last)
    grad, add = torch.randn_like(x), torch.randn_like(x)
    for shift in (None, torch.randn(1, channels), torch.randn(batch, channels)):
        tables = group_norm.statistics(x, shift, norm)
        shifted = x if shift is None else x + shift[:, :, None, None]
        compared = {
            group_norm.norm_silu(x, tables, norm): group_norm.norm_silu_plain(x, shift, norm),
            group_norm.norm_silu(x, tables, norm, silu=False): norm(shifted),
            group_norm.norm_silu_backward(grad, x, tables, norm, add): (
                group_norm.norm_silu_backward_plain(grad, x, shift, norm, add)
            ),
            group_norm.add_with_bias(x.clone(), add, norm.bias): x + add + norm.bias[:, None, None],
        }
        for ours, plain in compared.items():
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
