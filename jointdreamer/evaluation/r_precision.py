"""CLIP R-Precision: whether CLIP picks an asset's own prompt from a list by looking at it."""

from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor


def retrieve(similarities: Float[Tensor, "V P"], own: int) -> tuple[float, int]:
    """R-Precision of one asset (Park et al. 2021; Jain et al. 2022, arXiv 2112.01455).

    A view counts if its own prompt is strictly more similar than every other; a tie is a miss.

    Args:
        similarities: of V views to P > 1 prompts, in any monotonous unit.
        own: which of the prompts the asset was made from.

    Returns:
        The percentage of views whose most similar prompt is the asset's own; and the own prompt's
        rank by similarity averaged over the views, 1 is the best.
    """

    def ranks(scores: Float[Tensor, "N P"]) -> Tensor:
        return (scores >= scores[:, own, None]).sum(dim=1)  # itself counts: the best rank is 1

    first = (ranks(similarities) == 1).sum().item()
    return 100 * first / len(similarities), int(ranks(similarities.mean(0, True)))


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
