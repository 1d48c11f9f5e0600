"""diffusers' blocks for frozen weights: less memory traffic, and less kept for a gradient.

`ResnetBlock2D` keeps six tensors of the size of its activations for the backward pass, of which
frozen weights need two: the block's input and the first convolution's output. On a GPU where
Triton works, norm and SiLU are `group_norm`'s kernels, which also take up the biases, the timestep
embedding and the sum with the block's input.
"""

import os
import warnings
from functools import cache

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import group_norm

SWITCH = "JOINTDREAMER_TRITON"


class FusedResnetBlock(nn.Module):
    """Computes what `block` computes, with its own submodules under the same names.

    Differentiable once, in its input alone.
    """

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = (
            block.norm1, block.conv1, block.norm2, block.conv2,
        )  # fmt: skip
        self.time_emb_proj, self.conv_shortcut = block.time_emb_proj, block.conv_shortcut
        self.skip_time_act = block.skip_time_act

    def forward(
        self, x: Float[Tensor, "B C H W"], temb: Float[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B c H W"]:
        shift = self.conv1.bias[None]
        if self.time_emb_proj is not None:
            shift = shift + self.time_emb_proj(temb if self.skip_time_act else F.silu(temb))
        return _Resnet.apply(x, shift, self)


class _Resnet(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, shift: Tensor, block: FusedResnetBlock) -> Tensor:
        fused = kernels_work(x.device)
        if fused:
            x = x.contiguous(memory_format=torch.channels_last)
        a, of_x = _norm_silu(x, None, block.norm1, fused)
        h = F.conv2d(a, block.conv1.weight, padding=1)
        a, of_h = _norm_silu(h, shift, block.norm2, fused)
        out = F.conv2d(a, block.conv2.weight, padding=1)
        residual, bias = x, block.conv2.bias
        if block.conv_shortcut is not None:
            residual, bias = F.conv2d(x, block.conv_shortcut.weight), bias
            if block.conv_shortcut.bias is not None:
                bias = bias + block.conv_shortcut.bias
        ctx.block, ctx.fused = block, fused
        ctx.save_for_backward(x, None, of_x, h, shift, of_h)
        if fused:
            return group_norm.add_with_bias(out, residual, bias)
        return out + residual + bias[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        block, saved = ctx.block, ctx.saved_tensors  # once: a checkpoint unpacks them once
        of_x, of_h = saved[:3], saved[3:]
        if ctx.fused:
            grad = grad.contiguous(memory_format=torch.channels_last)
        d = F.conv_transpose2d(grad, block.conv2.weight, padding=1)
        d = _norm_silu_backward(d, of_h, block.norm2, ctx.fused)
        d = F.conv_transpose2d(d, block.conv1.weight, padding=1)
        if block.conv_shortcut is not None:
            grad = F.conv_transpose2d(grad, block.conv_shortcut.weight)
        return _norm_silu_backward(d, of_x, block.norm1, ctx.fused, grad), None, None


def _norm_silu(
    x: Tensor, shift: Tensor | None, norm: nn.GroupNorm, fused: bool
) -> tuple[Tensor, Tensor | None]:
    """silu(norm(x + shift)), and what its gradient needs beside x and shift."""
    if not fused:
        return group_norm.norm_silu_plain(x, shift, norm), None
    tables = group_norm.statistics(x, shift, norm)
    return group_norm.norm_silu(x, tables, norm), tables


def _norm_silu_backward(
    grad: Tensor, saved: tuple[Tensor | None, ...], norm: nn.GroupNorm, fused: bool, add=None
) -> Tensor:
    x, shift, tables = saved
    if not fused:
        return group_norm.norm_silu_backward_plain(grad, x, shift, norm, add)
    return group_norm.norm_silu_backward(grad, x, tables, norm, add)


class FusedTransformer(nn.Module):
    """`Transformer2DModel` with linear projections, whose activations stay channels last.

    diffusers' own makes them contiguous the other way on its way out, and its norm on its way in.
    """

    def __init__(self, model: Transformer2DModel) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = model.norm, model.proj_in, model.proj_out
        self.transformer_blocks = model.transformer_blocks

    def forward(
        self,
        hidden_states: Float[Tensor, "B C H W"],
        encoder_hidden_states: Float[Tensor, "B L D"] | None = None,
        return_dict: bool = True,
        **conditions,
    ):
        shape = hidden_states.shape
        x = self._norm(hidden_states).permute(0, 2, 3, 1).reshape(shape[0], -1, shape[1])
        x = self.proj_in(x)
        for block in self.transformer_blocks:
            x = block(x, encoder_hidden_states=encoder_hidden_states, **conditions)
        x = self.proj_out(x).reshape(shape[0], *shape[2:], -1).permute(0, 3, 1, 2)
        output = x + hidden_states
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _norm(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if (torch.is_grad_enabled() and x.requires_grad) or not kernels_work(x.device):
            return self.norm(x)
        x = x.contiguous(memory_format=torch.channels_last)
        return group_norm.norm_silu(
            x, group_norm.statistics(x, None, self.norm), self.norm, silu=False
        )


def fuse_blocks(model: nn.Module) -> int:
    """Replaces every block of a frozen model that can be, in place; says how many."""
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ResnetBlock2D) and _plain(child):
                setattr(module, name, FusedResnetBlock(child))
            elif type(child) is Transformer2DModel and child.config.use_linear_projection:
                setattr(module, name, FusedTransformer(child))
            else:
                continue
            count += 1
    return count


def fuse_on_gpu(model: nn.Module) -> nn.Module:
    """Fused blocks and channels last, where the kernels work; in place, before weights are shared.

    JOINTDREAMER_TRITON=0 in the environment leaves a model as diffusers made it.
    """
    if kernels_work(next(model.parameters()).device) and os.environ.get(SWITCH) != "0":
        fuse_blocks(model)
        model.to(memory_format=torch.channels_last)
    return model


def _plain(block: ResnetBlock2D) -> bool:
    """As Stable Diffusion's: SiLU, no resampling, no dropout, no layers of a LoRA's."""
    convolutions = [block.conv1, block.conv2, block.conv_shortcut or block.conv1]
    return (
        all(type(convolution) is nn.Conv2d for convolution in convolutions)
        and isinstance(block.nonlinearity, nn.SiLU)
        and (block.time_embedding_norm, block.output_scale_factor) == ("default", 1.0)
        and block.upsample is None
        and block.downsample is None
        and block.dropout.p == 0
        and not any(parameter.requires_grad for parameter in block.parameters())
    )


@cache
def kernels_work(device: torch.device) -> bool:
    """Whether `group_norm`'s kernels compile and start on this device; a warning says why not."""
    if device.type != "cuda" or group_norm.triton is None:
        return False
    norm = nn.GroupNorm(1, 8, device=device).half()
    x = torch.zeros(1, 8, 2, 2, device=device, dtype=torch.float16)
    x = x.contiguous(memory_format=torch.channels_last)
    try:
        tables = group_norm.statistics(x, x.new_zeros(1, 8), norm)
        group_norm.norm_silu_backward(group_norm.norm_silu(x, tables, norm), x, tables, norm, x)
    except Exception as error:  # compilers, drivers and Triton raise all sorts
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"GroupNorm runs in PyTorch: Triton does not work here ({reason}).", stacklevel=2
        )
        return False
    return True
