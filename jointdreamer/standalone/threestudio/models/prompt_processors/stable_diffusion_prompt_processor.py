"""`stable-diffusion-prompt-processor`: what `jointdreamer-prompt-processor` is made from."""

from dataclasses import dataclass

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor


@threestudio.register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """For every model whose folder has a CLIP `text_encoder/` and its `tokenizer/`.

    Raises:
        ValueError: if it is used itself: the text encoder is the extension's.
    """

    @dataclass
    class Config(PromptProcessor.Config):
        pass

    cfg: Config

    def prepare_text_embeddings(self) -> None:
        raise ValueError(
            "system.prompt_processor_type=stable-diffusion-prompt-processor has no text encoder in "
            "the standalone host: write jointdreamer-prompt-processor, which takes the same keys."
        )
