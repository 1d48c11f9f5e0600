"""All views of a step share one random background; the rest is the host's background."""

import threestudio
import torch

SHARED = "solid-color-background:jointdreamer-shared-augmentation"
DIRS = torch.nn.functional.normalize(torch.randn(4, 3, 5, 3), dim=-1)


def test_augmentation_is_one_colour_for_all_views():
    background = threestudio.find(SHARED)({"random_aug": True, "random_aug_prob": 1.0}).train()
    color = background(dirs=DIRS)
    assert color.shape == (4, 3, 5, 3)
    assert (color == color[0, 0, 0]).all() and (color[0, 0, 0] != 1).all()


def test_without_augmentation_nothing_changes():
    name = "neural-environment-map-background"
    torch.manual_seed(0)
    plain = threestudio.find(name)({})
    shared = threestudio.find(f"{name}:jointdreamer-shared-augmentation")({})
    shared.load_state_dict(plain.state_dict())
    torch.testing.assert_close(shared(dirs=DIRS), plain(dirs=DIRS))
