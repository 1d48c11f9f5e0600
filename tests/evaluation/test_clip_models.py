"""CLIP from a folder and from open_clip, behind one interface."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from helpers.finished_runs import turntable_of
from helpers.open_clip import write_open_clip
from PIL import Image
from transformers import CLIPModel

from jointdreamer.evaluation import TINY_CLIP
from jointdreamer.evaluation.clip_models import FolderClip, load_clip
from jointdreamer.evaluation.clip_score import similarities
from jointdreamer.tinyworld.dataset import make_pictures

CPU = torch.device("cpu")
PROMPTS = ("a green bear wearing a red hat", "a yellow duck", "a white cat with a blue backpack")


@pytest.fixture(scope="module")
def tiny():
    return load_clip(TINY_CLIP, CPU)


def test_tiny_clip_recognises_held_out_creatures(tiny):
    pictures = make_pictures(48, seed=987_654, device=CPU)
    images = tiny.images(list(pictures.images.permute(0, 2, 3, 1).numpy()))
    found = similarities(images, tiny.texts(pictures.captions)).argmax(dim=1)
    assert (found == torch.arange(48)).float().mean() > 0.8


def test_folder_clip_is_transformers_own(tiny):
    picture = make_pictures(1, seed=5, device=CPU).images
    model = CLIPModel.from_pretrained("load/tiny/clip", dtype=torch.float32).eval()
    text = tiny._tokenizer(list(PROMPTS), padding="max_length", max_length=24, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=text.input_ids, pixel_values=picture.float() / 127.5 - 1)
    images = tiny.images([picture[0].permute(1, 2, 0).numpy()])
    ours = similarities(images, tiny.texts(PROMPTS)) / 100 * model.logit_scale.exp()
    assert torch.allclose(ours, out.logits_per_image, atol=1e-4)


@pytest.mark.parametrize("size", [32, 100, 512])
def test_pictures_of_any_size_score_alike(tiny, size):
    own = turntable_of(PROMPTS[0])[:3]
    other = [np.asarray(Image.fromarray(picture).resize((size, size))) for picture in own]
    text = tiny.texts(PROMPTS)
    scores = [similarities(tiny.images(pictures), text) for pictures in (own, other)]
    assert torch.allclose(*scores, atol=10.0) and (scores[1].argmax(dim=1) == 0).all()


def test_wide_pictures_are_cut_to_their_middle_and_batches_do_not_matter(tiny):
    pictures = turntable_of(PROMPTS[0]) * 4
    wide = np.pad(pictures[0], ((0, 0), (20, 20), (0, 0)))
    assert torch.equal(tiny.images(pictures[:1]), tiny.images([wide]))
    assert torch.allclose(tiny.images(pictures)[33:], tiny.images(pictures[33:]), atol=1e-4)


def test_words_that_the_tiny_clip_never_saw_are_refused(tiny):
    with pytest.raises(ValueError, match=r"'a green raccoon'.*open_clip:"):
        tiny.texts([PROMPTS[0], "a green raccoon"])


def test_normalisation_is_the_folders_own(tmp_path, tiny):
    for path in (tmp_path.cwd() / TINY_CLIP).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    same = FolderClip(str(tmp_path), CPU)
    assert same.identity == tiny.identity
    numbers = {"image_mean": [0.2, 0.3, 0.4], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(numbers))
    other = FolderClip(str(tmp_path), CPU)
    assert other.identity != tiny.identity
    picture = turntable_of(PROMPTS[0])[0]
    mean, std = np.array(numbers["image_mean"]), np.array(numbers["image_std"])
    as_if = ((picture / 255 - mean) / std * 0.5 + 0.5) * 255  # what the tiny scaling maps there
    exact = (torch.tensor(as_if / 255).float().permute(2, 0, 1)[None] - 0.5) / 0.5
    with torch.no_grad():
        seen = tiny._model.vision_model(pixel_values=exact).pooler_output
    assert torch.allclose(other.images([picture]), tiny._model.visual_projection(seen), atol=1e-3)


def test_missing_models_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--clip=.*load/nothing"):
        load_clip("load/nothing", CPU)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises((ValueError, FileNotFoundError), match="--clip"):
        load_clip(str(tmp_path), CPU)


@pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed"
)
def test_missing_open_clip_is_said_with_the_remedy():
    with pytest.raises(ValueError, match="extra `clip`.*torchvision"):
        load_clip("open_clip:ViT-B-32/openai", CPU)


@pytest.fixture
def random_open_clip(tmp_path):
    return write_open_clip(tmp_path)


def test_embeddings_are_open_clips_own(random_open_clip):
    import open_clip

    ours, name = load_clip(random_open_clip, CPU), random_open_clip.removeprefix("open_clip:")
    model, preprocess = open_clip.create_model_from_pretrained(name)
    pictures = turntable_of(PROMPTS[0], 100)[:3]
    tokens = open_clip.get_tokenizer(name)(["a raccoon"])
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
        assert torch.allclose(ours.images(pictures), model.encode_image(pixels), atol=1e-5)
        assert torch.allclose(ours.texts(["a raccoon"]), model.encode_text(tokens), atol=1e-5)


def test_new_weights_under_an_old_name_are_told_apart(random_open_clip, tmp_path):
    before = load_clip(random_open_clip, CPU).identity
    path = tmp_path / "open_clip_pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save({key: value * 1.01 for key, value in weights.items()}, path)
    assert load_clip(random_open_clip, CPU).identity != before


@pytest.mark.parametrize("name", ["ViT-B-99/openai", "ViT-B-32/nonsense"])
def test_unknown_models_of_open_clip_are_named(random_open_clip, name):
    with pytest.raises(ValueError, match=rf"{name} does not load.*list_pretrained"):
        load_clip(f"open_clip:{name}", CPU)


def test_an_open_clip_name_without_weights_is_refused():
    with pytest.raises(ValueError, match="open_clip:ViT-B-32/openai"):
        load_clip("open_clip:ViT-B-32", CPU)
