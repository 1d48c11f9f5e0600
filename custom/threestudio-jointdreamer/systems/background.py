"""One random background colour for all views of a step, for any of the host's backgrounds."""

import threestudio
from jaxtyping import Float
from torch import Tensor


@threestudio.register("jointdreamer-shared-augmentation")
class SharedAugmentation:
    """Mixed into a background, `background_type: "<background>:jointdreamer-shared-augmentation"`.

    threestudio's `random_aug` draws one colour per view. A multi-view prior has never seen views
    of one object on different backgrounds, so here the whole step shares the draw; the colour of
    a direction is otherwise unchanged.
    """

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        batch, height = dirs.shape[:2]
        color = super().forward(dirs.flatten(0, 1)[None])
        return color[0].unflatten(0, (batch, height))
