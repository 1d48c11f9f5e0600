"""The energies with tiny models of each kind, and views that all of them can serve."""

import pytest
from helpers.views import level_views
from threestudio_jointdreamer.energies.classifier import ClassifierEnergy
from threestudio_jointdreamer.energies.multiview import MultiviewEnergy
from threestudio_jointdreamer.energies.order import OrderEnergy
from threestudio_jointdreamer.energies.pose import PoseEnergy
from threestudio_jointdreamer.energies.translation import TranslationEnergy

from jointdreamer.testing.random_classifiers import build_dino, build_pair_classifier
from jointdreamer.testing.random_image_priors import build_wonder3d, build_zero123

TRANSLATION = {"noise": "shared", "mask_with_opacity": False, "white_background": False}
KINDS = {
    "multiview": (MultiviewEnergy, {"noise": "shared"}),
    "wonder3d": (TranslationEnergy, TRANSLATION),
    "zero123": (TranslationEnergy, TRANSLATION),
    "classifier": (ClassifierEnergy, {}),
    "order": (OrderEnergy, {}),
    "pose": (PoseEnergy, {}),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory, mv_folder):
    """The folder of a model for each kind of energy."""
    root = tmp_path_factory.mktemp("models")
    return {
        "multiview": mv_folder,
        "wonder3d": build_wonder3d(root / "wonder3d"),
        "zero123": build_zero123(root / "zero123", seed=1),
        "classifier": build_pair_classifier(root / "classifier", gain=3.0),
        **dict.fromkeys(("order", "pose"), build_dino(root / "dino")),
    }


@pytest.fixture
def make_energy(models):
    def make(kind, **cfg):
        energy_class, defaults = KINDS[kind]
        name = {"pretrained_model_name_or_path": str(models[kind])}
        if kind == "pose":
            name["template_model_name_or_path"] = str(models["multiview"])
        return energy_class(name | defaults | cfg)

    return make


@pytest.fixture
def views(sd_prior):
    return level_views(sd_prior)
