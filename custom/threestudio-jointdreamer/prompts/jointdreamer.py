"""`jointdreamer-prompt-processor`: the empty prompt is the negative until `start_neg`.

A negative prompt helps late, when colours and detail form, and disturbs the early steps that find
the shape. Embeddings are cached per user, never in the working directory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import threestudio
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.models.prompt_processors.stable_diffusion_prompt_processor import (
    StableDiffusionPromptProcessor,
)
from threestudio.utils.misc import barrier, cleanup
from torch import Tensor

from ..config_values import parse_fields
from .cache import Embedding, EmbeddingCache
from .image import read_image_prompt
from .text_encoder import encode_prompts

EMPTY = ""


@dataclass
class EncodedPrompts(PromptProcessorOutput):
    """threestudio's, which can ask other text encoders, and a picture.

    Attributes:
        encoded_by: the same prompts by the text encoder in another folder or hub name.
        image: colours and opacity in [0, 1] of the prompt's picture, if there is one.
    """

    encoded_by: Callable[[str], PromptProcessorOutput]
    image: Float[Tensor, "4 H W"] | None


@threestudio.register("jointdreamer-prompt-processor")
class JointDreamerPromptProcessor(StableDiffusionPromptProcessor):
    """threestudio's Stable Diffusion prompt processor with a timed negative prompt.

    View-dependent prompts are made as threestudio makes them; whether they are used is the
    guidance's `view_dependent_prompting`.
    """

    @dataclass
    class Config(StableDiffusionPromptProcessor.Config):
        # the first step that uses negative_prompt; the empty prompt before it
        start_neg: Annotated[int, "[0, inf)"] = 0
        # where embeddings are kept; null: jointdreamer/ in the user's cache folder
        cache_dir: str | None = None
        # whether Stable Diffusion 3's third text encoder takes part, which knows long prompts and
        # letters, and takes 9 GiB while it encodes
        t5: bool = True
        # a picture of the object, for a model that takes one: a png with alpha, or any picture with
        # a plain background
        image: str | None = None
        # in threestudio a process of its own for the text encoder; here it runs in this one
        spawn: bool = False

        def __post_init__(self) -> None:
            parse_fields(self, "system.prompt_processor")

    cfg: Config

    def configure(self) -> None:
        if self.cfg.spawn:
            raise ValueError(
                "system.prompt_processor.spawn=true is nothing for jointdreamer-prompt-processor, "
                "which frees its text encoder after use: remove the key."
            )
        image = self.cfg.image
        self._image = read_image_prompt(image, "system.prompt_processor.image") if image else None
        name = self.cfg.pretrained_model_name_or_path
        self._cache = EmbeddingCache(self.cfg.cache_dir, name, self.cfg.t5)
        self._others: dict[str, JointDreamerPromptProcessor] = {}
        super().configure()

    def __call__(self) -> EncodedPrompts:
        output = vars(super().__call__())
        return EncodedPrompts(**output, encoded_by=self._encoded_by, image=self._image)

    def _encoded_by(self, name_or_path: str) -> EncodedPrompts:
        if name_or_path not in self._others:
            other = type(self)({**self.cfg, "pretrained_model_name_or_path": name_or_path})
            other._choose_negative(self._step)
            self._others[name_or_path] = other
        return self._others[name_or_path]()

    @rank_zero_only
    def prepare_text_embeddings(self) -> None:
        """Encodes the prompts that are not in the cache."""
        prompts = [self.prompt, *self.prompts_vd]
        prompts += [EMPTY, self.negative_prompt, *self.negative_prompts_vd]
        prompts = list(dict.fromkeys(prompts))
        if self.cfg.use_cache:
            prompts = [prompt for prompt in prompts if self._cache.load(prompt) is None]
        if prompts:
            name = self.cfg.pretrained_model_name_or_path
            embeddings = encode_prompts(name, prompts, self.device, self.cfg.t5)
            for prompt, embedding in zip(prompts, embeddings, strict=True):
                self._cache.save(prompt, embedding)
            cleanup()
        self._warn_of_gaps()

    def _warn_of_gaps(self) -> None:
        """Says what of the prompts the model will not take in, known from the cache too."""
        name = self.cfg.pretrained_model_name_or_path
        for prompt in dict.fromkeys([self.prompt, self.negative_prompt]):
            gaps = self._load(prompt).gaps
            if gaps.unknown_words:
                words, known = ", ".join(gaps.unknown_words), ", ".join(gaps.known_words)
                listed = f" Words it knows: {known}." if known else ""
                threestudio.warn(f"{name} never learned and ignores: {words}.{listed}")
            if gaps.cut_off:
                threestudio.warn(
                    f"The prompt {prompt!r} is too long for {name}, which ignores its end, "
                    f"{gaps.cut_off!r}: write a shorter one."
                )

    def load_text_embeddings(self) -> None:
        """Reads the embeddings, and starts with the negative of step 0."""
        barrier()  # the first rank writes them
        self.text_embeddings = self.load_from_cache(self.prompt)[None]
        self.text_embeddings_vd = self._stack(self.prompts_vd)
        self._negative = self.load_from_cache(self.negative_prompt)[None]
        self._negative_vd = self._stack(self.negative_prompts_vd)
        self._empty = self.load_from_cache(EMPTY)[None]
        self._empty_vd = self._empty.expand(len(self.directions), -1, -1)
        self._choose_negative(global_step=0)

    def _stack(self, prompts: list[str]) -> Float[Tensor, "N L D"]:
        return torch.stack([self.load_from_cache(prompt) for prompt in prompts])

    def load_from_cache(self, prompt: str) -> Float[Tensor, "L D"]:
        return self._load(prompt).hidden.to(self.device)

    def _load(self, prompt: str) -> Embedding:
        embedding = self._cache.load(prompt)
        if embedding is None:
            raise FileNotFoundError(
                f"The embedding of {prompt!r} is missing from {self._cache.folder}, where it was "
                "written a moment ago. On several machines, set system.prompt_processor.cache_dir "
                "to a folder that all of them share."
            )
        return embedding

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self._choose_negative(global_step)
        for other in self._others.values():
            other.update_step(epoch, global_step)

    def _choose_negative(self, global_step: int) -> None:
        self._step, late = global_step, global_step >= self.cfg.start_neg
        if late and self.cfg.start_neg == global_step > 0:
            threestudio.info(f"Step {global_step}: the negative prompt takes the empty one's place")
        self.uncond_text_embeddings = self._negative if late else self._empty
        self.uncond_text_embeddings_vd = self._negative_vd if late else self._empty_vd
