"""A stand-in for threestudio's PromptProcessorOutput, with random embeddings."""

import torch


class RandomPrompts:
    """Plain embeddings [1, L, D], others for each azimuth, and two negatives per view.

    `others` are the prompts that any other text encoder makes.
    """

    def __init__(
        self,
        seed: int = 0,
        length: int = 24,
        width: int = 128,
        perp_neg: bool = False,
        others: "RandomPrompts | None" = None,
    ):
        self.others = others
        generator = torch.Generator().manual_seed(seed)
        self.text_embeddings, self.uncond_text_embeddings, self.direction, *self.negatives = (
            torch.randn(1, length, width, generator=generator) for _ in range(5)
        )
        self.use_perp_neg = perp_neg

    def to(self, device: torch.device) -> "RandomPrompts":
        """Moves the embeddings, in place."""
        for name in ("text_embeddings", "uncond_text_embeddings", "direction"):
            setattr(self, name, getattr(self, name).to(device))
        self.negatives = [negative.to(device) for negative in self.negatives]
        if self.others is not None:
            self.others.to(device)
        return self

    def encoded_by(self, name_or_path: str) -> "RandomPrompts":
        return self.others

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent=True):
        text = self.text_embeddings.expand(len(azimuth), -1, -1)
        if view_dependent:
            text = text + azimuth.deg2rad().cos().view(-1, 1, 1) * self.direction
        return torch.cat([text, self.uncond_text_embeddings.expand(len(azimuth), -1, -1)])

    def get_text_embeddings_perp_neg(
        self, elevation, azimuth, camera_distances, view_dependent=True
    ):
        both = self.get_text_embeddings(elevation, azimuth, camera_distances, view_dependent)
        scale = 1 + azimuth.deg2rad().sin().view(-1, 1, 1)
        negatives = torch.stack([scale * n for n in self.negatives], dim=1)
        weights = -torch.stack([azimuth / 360, 1 - azimuth / 360], dim=1)
        return torch.cat([both, negatives.flatten(0, 1)]), weights
