"""CLIP R-Precision: whether CLIP picks an asset's own prompt from a list by looking at it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Retrieval:
    """How an asset's own prompt fared among `candidates` prompts.

    Args:
        r_precision: percentage of views whose most similar prompt is the asset's own.
        rank: place of the own prompt by similarity averaged over the views; 1 is the best.
    """

    r_precision: float
    rank: int
    candidates: int


def retrieve(similarities: Float[Tensor, "V P"], own: int) -> Retrieval:
    """R-Precision of one asset (Park et al. 2021; Jain et al. 2022, arXiv 2112.01455).

    A view counts if its own prompt is strictly more similar than every other; a tie is a miss.

    Args:
        similarities: of V views to P prompts, in any monotonous unit.
        own: which of the prompts the asset was made from.

    Raises:
        ValueError: fewer than two prompts to choose from.
    """
    views, prompts = similarities.shape
    if prompts < 2:
        raise ValueError("R-Precision needs at least two prompts to choose from.")

    def ranks(scores: Float[Tensor, "N P"]) -> Tensor:
        return (scores >= scores[:, own, None]).sum(dim=1)  # itself counts: the best rank is 1

    first = (ranks(similarities) == 1).sum().item()
    return Retrieval(100 * first / views, int(ranks(similarities.mean(0, True))), prompts)


def read_prompts(path: Path) -> list[str]:
    """The distinct prompts of a JSON list, or of a text file with one on each line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no list of texts.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--prompts {path} does not exist. Give a JSON list or a text file."
        )
    try:
        text = path.read_text(encoding="utf-8")
        prompts = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {path} does not read as text or JSON ({error}).") from error
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f'--prompts {path} must hold a list of texts, as ["a cat", "a dog"].')
    if not "".join(prompts).strip():
        raise ValueError(f"--prompts {path} holds no prompts. Write at least one.")
    return distinct(prompt for prompt in prompts if prompt.strip())


def distinct(prompts: Iterable[str]) -> list[str]:
    """Prompts in their order, without those that differ from another in case or full stop only."""
    first: dict[str, str] = {}
    for prompt in prompts:
        first.setdefault(_comparable(prompt), prompt)
    return list(first.values())


def place_of(prompt: str, candidates: Sequence[str]) -> int | None:
    """Where among `candidates` a prompt is, case and full stop apart; None if it is not there."""
    known = list(map(_comparable, candidates))
    return known.index(_comparable(prompt)) if _comparable(prompt) in known else None


def _comparable(prompt: str) -> str:
    return " ".join(prompt.lower().split()).strip(" .,")
