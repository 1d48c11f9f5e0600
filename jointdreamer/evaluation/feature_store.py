"""Embeddings of pictures that were computed before, so that interrupted work goes on."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class FeatureStore:
    """Features in `folder`, found by the model's identity and the pictures' own bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def features(
        self, identity: str, pictures: Iterable[Path], compute: Callable[[], Tensor]
    ) -> Float[Tensor, "N D"]:
        """What `compute` returns for these files, from the store if it is there.

        Args:
            identity: of the model and of whatever else the features depend on.
        """
        path = self._folder / f"{_digest(identity, pictures)}.safetensors"
        if path.is_file():
            try:
                return load_file(path)["features"]
            except (SafetensorError, KeyError):
                pass  # damaged: made anew
        features = compute().contiguous()
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as workplace:
            temporary = os.path.join(workplace, path.name)
            save_file({"features": features}, temporary)
            os.replace(temporary, path)
        return features


def _digest(identity: str, pictures: Iterable[Path]) -> str:
    digest = hashlib.sha256(identity.encode())
    for path in pictures:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
