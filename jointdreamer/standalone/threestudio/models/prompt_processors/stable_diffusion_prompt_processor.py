"""`stable-diffusion-prompt-processor`: embeddings of Stable Diffusion's CLIP text encoder."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor
from threestudio.models.prompt_processors.embedding_cache import (
    cache_path,
    model_identity,
    save_embedding,
)
from threestudio.models.prompt_processors.text_encoder import (
    encode_prompts,
    load_text_encoder,
    prompt_notes,
)
from threestudio.utils.misc import cleanup, get_device


@threestudio.register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """For every model whose folder has a CLIP `text_encoder/` and its `tokenizer/`."""

    @dataclass
    class Config(PromptProcessor.Config):
        pass

    cfg: Config

    def configure_text_encoder(self) -> None:
        self.tokenizer, self.text_encoder = load_text_encoder(
            self.cfg.pretrained_model_name_or_path, self.device
        )

    def destroy_text_encoder(self) -> None:
        del self.tokenizer
        del self.text_encoder
        cleanup()

    def get_text_embeddings(
        self, prompt: str | list[str], negative_prompt: str | list[str]
    ) -> tuple[Float[Tensor, "B N Nf"], Float[Tensor, "B2 N Nf"]]:
        positive, negative = (
            encode_prompts(
                self.tokenizer, self.text_encoder, [text] if isinstance(text, str) else list(text)
            )
            for text in (prompt, negative_prompt)
        )
        return positive, negative

    @staticmethod
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        identity = model_identity(pretrained_model_name_or_path)
        tokenizer, encoder = load_text_encoder(pretrained_model_name_or_path, get_device())
        embeddings = encode_prompts(tokenizer, encoder, prompts)
        for prompt, embedding in zip(prompts, embeddings, strict=True):
            notes = prompt_notes(tokenizer, encoder, prompt)
            save_embedding(cache_path(cache_dir, identity, prompt), embedding, notes)
