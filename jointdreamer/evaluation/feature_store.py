"""What models made of pictures before, so that interrupted work goes on."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.files import replacing
from torch import Tensor


@dataclass(frozen=True)
class FeatureStore:
    """Features in `folder`, found by the model's identity and the pictures' own bytes."""

    folder: Path

    def features(
        self, identity: str, pictures: Iterable[Path], compute: Callable[[], Tensor]
    ) -> Float[Tensor, "N D"]:
        """What `compute` returns for these files, from the store if it is there.

        Args:
            identity: of the model and of whatever else the features depend on.
        """
        digest = hashlib.sha256(identity.encode())
        for picture in pictures:
            digest.update(hashlib.sha256(picture.read_bytes()).digest())
        path = self.folder / f"{digest.hexdigest()}.safetensors"
        if path.is_file():
            try:
                return load_file(path)["features"]
            except (SafetensorError, KeyError):
                pass  # damaged: made anew
        features = compute().contiguous()
        with replacing(path) as new:
            save_file({"features": features}, new)
        return features
