"""The prompt processor every other one derives from: prompts to embeddings, through a cache."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp
from jaxtyping import Float
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

import threestudio
from threestudio.models.prompt_processors.directions import make_directions
from threestudio.models.prompt_processors.embedding_cache import (
    PromptNotes,
    cache_path,
    default_cache_dir,
    hash_prompt,
    load_embedding,
    model_identity,
    repository_bases,
)
from threestudio.models.prompt_processors.output import (
    DirectionConfig,
    PromptProcessorOutput,
    shift_azimuth_deg,
)
from threestudio.utils.base import BaseObject
from threestudio.utils.misc import barrier, cleanup

__all__ = [
    "DirectionConfig",
    "PromptProcessor",
    "PromptProcessorOutput",
    "hash_prompt",
    "shift_azimuth_deg",
]


class PromptProcessor(BaseObject):
    """Embeds a prompt, its view-dependent variants and the negative prompt when it is made.

    Embeddings come from the cache where they can. A subclass says how the others are computed, in
    `spawn_func`; the text encoder is gone again afterwards.
    """

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"  # or lib:some_words, which load/prompt_library.json completes

        # replace "<prompt>, front view" and so on
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None

        negative_prompt: str = ""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: float = 60.0
        front_threshold: float = 45.0
        back_threshold: float = 45.0
        view_dependent_prompt_front: bool = False  # "front view of <prompt>" instead
        use_cache: bool = True
        cache_dir: str | None = None  # null: in the user's cache folder
        spawn: bool = True  # a process of its own for the text encoder, if there is a GPU

        # Perp-Neg weights a exp(-b r) + c, between side, back and front
        use_perp_neg: bool = False
        perp_neg_f_sb: tuple[float, float, float] = (1, 0.5, -0.606)
        perp_neg_f_fsb: tuple[float, float, float] = (1, 0.5, +0.967)
        perp_neg_f_fs: tuple[float, float, float] = (4, 0.5, -2.426)
        perp_neg_f_sf: tuple[float, float, float] = (4, 0.5, -2.426)

        # threestudio's keys; not supported in this host
        use_prompt_debiasing: bool = False
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        prompt_debiasing_mask_ids: list[int] | None = None

    cfg: Config

    @rank_zero_only
    def configure_text_encoder(self) -> None:
        """Loads the text encoder for `get_text_embeddings`."""
        raise NotImplementedError

    @rank_zero_only
    def destroy_text_encoder(self) -> None:
        """Lets the text encoder go."""
        raise NotImplementedError

    def configure(self) -> None:
        self._check_config()
        self._cache_dir = str(Path(self.cfg.cache_dir or default_cache_dir()).expanduser())
        self._identity = model_identity(self.cfg.pretrained_model_name_or_path)
        self.directions = make_directions(self.cfg)
        self.direction2idx = {d.name: i for i, d in enumerate(self.directions)}
        self.prompt_library = _read_prompt_library()
        self.prompt = self.preprocess_prompt(self.cfg.prompt)
        self.negative_prompt = self.cfg.negative_prompt
        self.prompts_vd = [
            self.cfg.get(f"prompt_{d.name}") or d.prompt(self.prompt) for d in self.directions
        ]
        self.negative_prompts_vd = [
            d.negative_prompt(self.negative_prompt) for d in self.directions
        ]
        threestudio.info(f"Prompt [{self.prompt}], negative prompt [{self.negative_prompt}]")
        threestudio.debug(f"View-dependent prompts {self.prompts_vd}")
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    def _check_config(self) -> None:
        if not self.cfg.prompt.strip():
            raise ValueError(
                f"system.prompt_processor.prompt={self.cfg.prompt!r} is empty: say what to make, "
                'for example system.prompt_processor.prompt="a blue cat wearing a red hat".'
            )
        if self.cfg.use_prompt_debiasing:
            raise ValueError(
                "system.prompt_processor.use_prompt_debiasing=true is not supported by the "
                "standalone host: set it to false, or write prompt_front, prompt_side, "
                "prompt_back and prompt_overhead yourself."
            )

    @staticmethod
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        """Computes the embeddings of `prompts` and writes them to the cache."""
        raise NotImplementedError

    @rank_zero_only
    def prepare_text_embeddings(self) -> None:
        """Embeds the prompts that are not in the cache; says what the model does not understand."""
        prompts = [self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]
        prompts = list(dict.fromkeys(prompts))
        if self.cfg.use_cache:
            prompts = [prompt for prompt in prompts if load_embedding(self._path(prompt)) is None]
        if prompts:
            arguments = (self.cfg.pretrained_model_name_or_path, prompts, self._cache_dir)
            if self.cfg.spawn and self.device.type == "cuda":
                self._run_in_subprocess(*arguments)
            else:
                self.spawn_func(*arguments)
            cleanup()
        self._warn_of_gaps()

    def _run_in_subprocess(self, *arguments) -> None:
        """`spawn_func` in a new process, whose GPU memory is free when it ends."""
        with ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool:
            try:
                pool.submit(self.spawn_func, *arguments).result()
            except BrokenProcessPool as error:
                raise ValueError(
                    "The process that embeds the prompts died, perhaps for lack of memory: set "
                    "system.prompt_processor.spawn=false to run it in this process."
                ) from error

    def _warn_of_gaps(self) -> None:
        """Warns, once for all prompts, of words the model never learned and of what did not fit."""
        written = [self.prompt, self.negative_prompt]
        written += [self.cfg.get(f"prompt_{d.name}") or "" for d in self.directions]
        unknown: dict[str, None] = {}
        known: list[str] = []
        for prompt in written:
            notes = self._notes(prompt)
            unknown.update(dict.fromkeys(notes.unknown_words))
            known = known or notes.known_words
        name = self.cfg.pretrained_model_name_or_path
        if unknown:
            listed = f" Words it knows: {', '.join(known)}." if known else ""
            threestudio.warn(f"{name} never learned and ignores: {', '.join(unknown)}.{listed}")
        for prompt in dict.fromkeys([*written, *self.prompts_vd]):
            notes = self._notes(prompt)
            if notes.ignored:
                threestudio.warn(
                    f"{name} reads only so many words: of the prompt {prompt!r} it ignores the "
                    f"end, {notes.ignored!r}. Write a shorter one."
                )
                break  # the view-dependent variants all have the same end

    def _notes(self, prompt: str) -> PromptNotes:
        loaded = load_embedding(self._path(prompt))
        return PromptNotes() if loaded is None else loaded[1]

    def _path(self, prompt: str) -> str:
        return cache_path(self._cache_dir, self._identity, prompt)

    def load_text_embeddings(self) -> None:
        """Reads all embeddings from the cache, which the first rank has filled."""
        barrier()
        self.text_embeddings = self.load_from_cache(self.prompt)[None]
        self.uncond_text_embeddings = self.load_from_cache(self.negative_prompt)[None]
        self.text_embeddings_vd = torch.stack([self.load_from_cache(p) for p in self.prompts_vd])
        self.uncond_text_embeddings_vd = torch.stack(
            [self.load_from_cache(p) for p in self.negative_prompts_vd]
        )

    def load_from_cache(self, prompt: str) -> Float[Tensor, "N Nf"]:
        """One embedding, on this process's device.

        Raises:
            FileNotFoundError: if it is not in the cache.
        """
        loaded = load_embedding(self._path(prompt))
        if loaded is None:
            raise FileNotFoundError(
                f"The embedding of {prompt!r} by {self.cfg.pretrained_model_name_or_path} is "
                f"missing from {self._cache_dir}. On several machines, set "
                "system.prompt_processor.cache_dir to a folder that all of them share."
            )
        return loaded[0].to(self.device)

    def preprocess_prompt(self, prompt: str) -> str:
        """Completes `lib:some_words` from the prompt library; other prompts stay as they are.

        Raises:
            ValueError: unless exactly one prompt of the library has all the words.
        """
        if not prompt.startswith("lib:"):
            return prompt
        words = prompt.removeprefix("lib:").lower().split("_")
        library = self.prompt_library.get("dreamfusion", [])
        fitting = [entry for entry in library if all(word in entry.lower() for word in words)]
        if len(fitting) != 1:
            found = f"fit {len(fitting)} prompts" if library else "cannot be looked up: there is no"
            raise ValueError(
                f"system.prompt_processor.prompt={prompt!r}: the words {', '.join(words)} {found} "
                f"{'of ' if library else ''}load/prompt_library.json. Give other words, or the "
                "whole prompt."
            )
        threestudio.info(f"Prompt from the library: {fitting[0]}")
        return fitting[0]

    def get_text_embeddings(
        self, prompt: str | list[str], negative_prompt: str | list[str]
    ) -> tuple[Float[Tensor, "B N Nf"], Float[Tensor, "B2 N Nf"]]:
        """Embeds prompts at once, without the cache; between configure and destroy_text_encoder."""
        raise NotImplementedError

    def __call__(self) -> PromptProcessorOutput:
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=self.cfg.use_perp_neg,
            perp_neg_f_sb=tuple(self.cfg.perp_neg_f_sb),
            perp_neg_f_fsb=tuple(self.cfg.perp_neg_f_fsb),
            perp_neg_f_fs=tuple(self.cfg.perp_neg_f_fs),
            perp_neg_f_sf=tuple(self.cfg.perp_neg_f_sf),
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )


def _read_prompt_library() -> dict[str, list[str]]:
    """Prompts by collection, from load/prompt_library.json; empty where there is no such file."""
    for base in repository_bases():
        path = os.path.join(base, "load", "prompt_library.json")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return json.load(file)
    return {}
