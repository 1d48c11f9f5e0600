"""Makes any latent diffusion model look the same to the guidance and to the energies."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cuda_graphs import SPARE, GraphedCalls
from .free_memory import free_memory
from .schedule import GaussianPath

# Channels of a head, above which PyTorch's fused attention has no fast backward: SD's VAE, with one
# head of 512, takes less time with the plain product of matrices.
WIDEST_FUSED_HEAD = 256
# Bytes that a call takes for a pixel of the latents, or of the images, about. For a gradient Stable
# Diffusion's encoder, with fused blocks in fp16, keeps 696 MiB of a view of 512 px: 320 at 512 px,
# 144 at a half, 72 at a quarter and 160 at an eighth of it, of which attention takes 112. That is
# 2.7 KiB a pixel (6.3 with diffusers' blocks); what comes and goes meanwhile is the rest.
UNET_BYTES, VAE_BYTES, VAE_GRAPH_BYTES = 2**14, 2**10, 2**12
USABLE = 0.25  # of the free memory for graphs of views; the rest is for what comes after them


class LatentPrior:
    """A UNet, its noise schedule and, where images are needed, its VAE, behind one interface.

    What the guidance and the energies ask of a prior: `encode` and `decode`, `predict_noise`, and
    of its `schedule` x_t, x̂0, w(t) and how noisy a t is. A family whose model is called otherwise
    is a subclass with a `_predict` of its own. The adapter casts to the models' own precision, and
    back to the caller's. All sizes are read from the models' configs.

    Args:
        unet: predicts noise (or v) in latents; a transformer in Stable Diffusion 3.
        schedule: the noise schedule `unet` was trained with.
        vae: needed by `encode`, `decode`, `image_size` and `downsampling` only.
        condition_channels: how many channels of the UNet's input, after the noisy latents, hold a
            condition, as an image-to-image model's do.

    Attributes:
        latent_space: priors whose latents mean the same have the same name here.
        model_class, part: what `unet` is, and the folder that it is loaded from.
        text_dim_key: in the model's config, the width of the text embeddings.
        half: its half precision.
    """

    latent_space: ClassVar[str] = "Stable Diffusion"
    model_class: ClassVar[type[ModelMixin]] = UNet2DConditionModel
    part: ClassVar[str] = "unet"
    text_dim_key: ClassVar[str] = "cross_attention_dim"
    half: ClassVar[torch.dtype] = torch.float16

    def __init__(
        self,
        unet: ModelMixin,
        schedule: GaussianPath,
        vae: AutoencoderKL | AutoencoderTiny | None = None,
        condition_channels: int = 0,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.schedule = schedule.to(unet.device)
        self.device = unet.device
        self.dtype = unet.dtype
        self.latent_channels: int = unet.config.in_channels - condition_channels
        self.latent_size: int = _square_size(unet.config.sample_size)
        self.text_dim: int = unet.config[self.text_dim_key]
        self.graphs: GraphedCalls | None = None  # see `use_cuda_graphs`
        self.features: Callable[..., Tensor] = self._features
        self.features_gradient: Callable[..., Tensor] = self._features_gradient
        if vae is not None and vae.config.latent_channels != self.latent_channels:
            raise ValueError(
                f"The UNet takes {self.latent_channels} latent channels but the VAE makes "
                f"{vae.config.latent_channels}: load both from one model's folder."
            )
        if isinstance(vae, AutoencoderKL):
            _use_fast_attention(vae)

    @property
    def downsampling(self) -> int:
        """Pixels per latent along one axis."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """The image height and width that the models were made for, in pixels."""
        return self.latent_size * self.downsampling

    @property
    def _shift(self) -> float:
        """The mean of unscaled latents, for a VAE that says it."""
        return self.vae.config.get("shift_factor") or 0.0

    def encode(
        self,
        rgb: Float[Tensor, "B 3 H W"],
        latent_size: int | None = None,
        chunk: int | None = None,
        sample: bool = True,
    ) -> Float[Tensor, "B C h w"]:
        """Images in [0, 1] of any size to a sample of their scaled latents, differentiably.

        Args:
            rgb: resized (bilinear) to `latent_size` · `downsampling` pixels first.
            latent_size: h and w of the result; the model's own by default.
            chunk: images that are encoded at once. No graph is kept for the backward pass, which
                encodes them once more; the samples are the same as without.
            sample: false gives the mean, for which nothing is drawn.
        """
        size = latent_size or self.latent_size
        images = (resize(rgb, size * self.downsampling) * 2 - 1).to(self.vae.dtype)
        if chunk is None:
            features = self.features(images)
        else:
            features = torch.cat([_Again.apply(part, self) for part in images.split(chunk)])
        if isinstance(self.vae, AutoencoderTiny):  # which draws nothing
            latents = features
        else:
            distribution = DiagonalGaussianDistribution(features)
            latents = distribution.sample() if sample else distribution.mean
        scaled = ((latents - self._shift) * self.vae.config.scaling_factor).to(rgb.dtype)
        return scaled.contiguous()  # noise like it would depend on the layout

    def _features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Means and log variances of unscaled latents; from an AutoencoderTiny the latents."""
        encoded = self.vae.encode(images)
        return encoded.latents if "latents" in encoded else encoded.latent_dist.parameters

    def _features_gradient(
        self, images: Float[Tensor, "B 3 H W"], grad: Float[Tensor, "B c h w"]
    ) -> Float[Tensor, "B 3 H W"]:
        """The gradient in the images, from that in their features."""
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            return torch.autograd.grad(self._features(images), images, grad)[0]

    def views_that_fit(self, rgb: Float[Tensor, "B 3 H W"]) -> int:
        """How many views `encode` can keep the graph of in the free memory; one at least.

        Found out by encoding one; without a trace in the random state.
        """
        if not rgb.is_cuda:
            return 1
        before = torch.cuda.memory_allocated(rgb.device)
        with torch.random.fork_rng([rgb.device]), torch.enable_grad():
            latents = self.encode(rgb[:1].detach().requires_grad_())
        one = torch.cuda.memory_allocated(rgb.device) - before
        del latents
        return max(1, int(free_memory(rgb.device) * USABLE / one))

    def decode(
        self, latents: Float[Tensor, "B C h w"], latent_size: int | None = None
    ) -> Float[Tensor, "B 3 H W"]:
        """Scaled latents to images in [0, 1], differentiably.

        Args:
            latent_size: latents are resized (bilinear) to this first; unchanged by default.
        """
        if latent_size is not None:
            latents = resize(latents, latent_size)
        unscaled = latents / self.vae.config.scaling_factor + self._shift
        decoded = self.vae.decode(unscaled.to(self.vae.dtype)).sample
        return (decoded.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def predict_noise(
        self,
        latents: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        text_embeddings: Float[Tensor, "B L D"],
        class_labels: Float[Tensor, "B K"] | None = None,
        condition: Float[Tensor, "B c h w"] | None = None,
        cross_attention_kwargs: dict | None = None,
        residuals: Sequence[Float[Tensor, "B ..."]] = (),
    ) -> Float[Tensor, "B C h w"]:
        """ε_φ(x_t; y, t), whatever the model itself predicts.

        Args:
            condition: what fills the condition channels, if the model has any.
            cross_attention_kwargs: what the UNet's transformer blocks are told, as in diffusers.
            residuals: what is added after each of the UNet's down blocks.

        Raises:
            ValueError: the text embeddings are not as wide as the model's cross-attention.
        """
        self.check_text(text_embeddings)
        sample = latents if condition is None else torch.cat([latents, condition], dim=1)
        labels = None if class_labels is None else class_labels.to(self.dtype)
        time = self.schedule.model_time(t)
        inputs = sample.to(self.dtype), time, text_embeddings.to(self.dtype), labels, *residuals
        if self.graphs is None or cross_attention_kwargs is not None:
            output = self._predict(*inputs, cross_attention_kwargs=cross_attention_kwargs)
        else:
            output = self.graphs(*inputs)
        return self.schedule.to_epsilon(output.to(latents.dtype), latents, t)

    def check_text(self, text_embeddings: Float[Tensor, "... D"]) -> None:
        """Raises a ValueError unless the model's cross-attention takes embeddings of this width."""
        if text_embeddings.shape[-1] != self.text_dim:
            raise ValueError(
                f"The text embeddings are {text_embeddings.shape[-1]} wide but the UNet attends to "
                f"{self.text_dim}: set prompt_processor.pretrained_model_name_or_path to the text "
                "encoder this UNet was trained with, or an energy's text_encoder_name_or_path."
            )

    def _predict(
        self,
        sample: Float[Tensor, "B c h w"],
        time: Tensor,
        text: Float[Tensor, "B L D"],
        class_labels: Float[Tensor, "B K"] | None = None,
        *residuals: Float[Tensor, "B ..."],
        **more: dict | None,
    ) -> Float[Tensor, "B C h w"]:
        """What the model itself says."""
        if residuals:
            more["down_intrablock_additional_residuals"] = list(residuals)
        return self.unet(
            sample, time, encoder_hidden_states=text, class_labels=class_labels, **more
        ).sample

    def use_cuda_graphs(self, spare: float = SPARE) -> None:
        """Has calls without gradients replayed as CUDA graphs, see `GraphedCalls`."""
        self.graphs = GraphedCalls(self._predict, UNET_BYTES, spare)
        if isinstance(self.vae, AutoencoderKL):
            self.features = GraphedCalls(self._features, VAE_BYTES, spare)
            self.features_gradient = GraphedCalls(self._features_gradient, VAE_GRAPH_BYTES, spare)

    def compile(self) -> None:
        """Compiles the UNet's transformer blocks for the fixed shapes of training, in place.

        One graph of each size serves all blocks of it. A block that does not compile runs as it is.
        """
        torch._dynamo.config.suppress_errors = True
        for name, modules in self.unet.named_modules():
            if name.endswith("transformer_blocks"):  # as every model of diffusers calls them
                for block in modules:
                    block.compile(dynamic=False)


class _Again(torch.autograd.Function):
    """A prior's features of images, without a graph: the backward pass encodes them once more."""

    @staticmethod
    def forward(ctx, images: Tensor, prior: LatentPrior) -> Tensor:
        ctx.prior = prior
        ctx.save_for_backward(images)
        return prior.features(images)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        return ctx.prior.features_gradient(images, grad), None


def resize(
    images: Float[Tensor, "B C H W"], size: int, antialias: bool = False
) -> Float[Tensor, "B C size size"]:
    """Bilinear, to a square; the very same tensor where it has that size already."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(
        images, (size, size), mode="bilinear", align_corners=False, antialias=antialias
    )


def join_pooled(
    text: Float[Tensor, "B L D"], pooled: Float[Tensor, "B P"]
) -> Float[Tensor, "B L+1 D"]:
    """Text embeddings with a pooled embedding, P ≤ D, as one more token, filled up with zeros.

    So embeddings of every family are one tensor, as threestudio's prompt processors have them.
    """
    filled = F.pad(pooled, (0, text.shape[-1] - pooled.shape[-1]))
    return torch.cat([text, filled[:, None]], dim=1)


def split_pooled(
    text: Float[Tensor, "B L+1 D"], width: int
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B P"]]:
    """What `join_pooled` was given, for P = `width`."""
    return text[:, :-1], text[:, -1, :width]


def _use_fast_attention(vae: AutoencoderKL) -> None:
    for attention in vae.encoder.mid_block.attentions:  # only the encoder is differentiated
        if attention is not None and attention.inner_dim // attention.heads > WIDEST_FUSED_HEAD:
            attention.set_processor(AttnProcessor())


def _square_size(sample_size: int | tuple[int, int]) -> int:
    sizes = {sample_size} if isinstance(sample_size, int) else set(sample_size)
    if len(sizes) > 1:
        raise ValueError(
            f"The UNet's sample_size={sample_size} is not square: use a model of square images."
        )
    return sizes.pop()
