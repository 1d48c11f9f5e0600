"""Fixtures of these tests."""

import pytest
from helpers.translation_fixtures import image_priors, level_views, make_translation  # noqa: F401
from threestudio_jointdreamer.energies.classifier import ClassifierEnergy
from threestudio_jointdreamer.energies.multiview import MultiviewEnergy

from jointdreamer.testing.random_classifiers import build_pair_classifier


@pytest.fixture
def make_multiview(mv_folder):
    def make(**cfg):
        cfg = {"noise": "shared", "pretrained_model_name_or_path": str(mv_folder)} | cfg
        return MultiviewEnergy(cfg)

    return make


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory):
    return build_pair_classifier(tmp_path_factory.mktemp("classifier") / "pairs", gain=3.0)


@pytest.fixture
def make_classifier(classifier_folder):
    def make(**cfg):
        return ClassifierEnergy({"pretrained_model_name_or_path": str(classifier_folder)} | cfg)

    return make
