"""A prompt's variants for each side, which cameras get them, and Perp-Neg's blend of them."""

import math

import pytest
import threestudio
import torch
from threestudio.models.prompt_processors import base

PROMPT, NEGATIVE = "a green bear", "a blue cat"


class NumberedPrompts(base.PromptProcessor):
    """The n-th text is embedded as n², the negative prompts of the sides as 100 to 103."""

    def prepare_text_embeddings(self):
        texts = [self.prompt, self.negative_prompt, *self.prompts_vd]
        self.number = {text: n for n, text in enumerate(dict.fromkeys(texts))}

    def load_text_embeddings(self):
        self.text_embeddings = self.embed(self.prompt)
        self.uncond_text_embeddings = self.embed(self.negative_prompt)
        self.text_embeddings_vd = self.embed(*self.prompts_vd)
        self.uncond_text_embeddings_vd = torch.arange(100.0, 104.0)[:, None, None]

    def embed(self, *texts):
        return torch.tensor([[[float(self.number[text]) ** 2]] for text in texts])


def make(**changes) -> NumberedPrompts:
    return NumberedPrompts({"prompt": PROMPT, "negative_prompt": NEGATIVE} | changes)


def cameras(*azimuth_deg: float, elevation_deg: float = 0.0) -> tuple[torch.Tensor, ...]:
    azimuth = torch.tensor(azimuth_deg)
    return torch.full_like(azimuth, elevation_deg), azimuth, torch.ones_like(azimuth)


@pytest.mark.parametrize(
    ("in_front", "expected"),
    [
        (False, [f"{PROMPT}, {side} view" for side in base.SIDES]),
        (True, [f"{side} view of {PROMPT}" for side in ("side", "front", "backside", "overhead")]),
    ],
)
def test_view_dependent_prompts(in_front, expected):
    processor = make(view_dependent_prompt_front=in_front)
    out = processor()
    assert out.prompts_vd == expected
    assert processor.negative_prompts_vd == [NEGATIVE] * 4
    assert torch.equal(out.text_embeddings_vd, processor.embed(*expected))


def test_a_side_can_have_a_prompt_of_its_own():
    processor = make(prompt_back="a tail", prompt_overhead="two ears")
    assert processor.prompts_vd[2:] == ["a tail", "two ears"]
    assert processor.prompts_vd[0] == f"{PROMPT}, side view"


def test_cameras_get_the_side_they_see():
    processor = make(front_threshold=30.0, back_threshold=60.0, overhead_threshold=50.0)
    out = processor()
    text = out.text_embeddings_vd
    azimuths = [0.0, 29.0, -29.0, 31.0, 119.0, 121.0, 180.0, -121.0, 270.0, 359.0, -340.0]
    sides = [1, 1, 1, 0, 0, 2, 2, 2, 0, 1, 1]
    both = out.get_text_embeddings(*cameras(*azimuths))
    assert torch.equal(both[:11], text[sides])
    assert torch.equal(both[11:], out.uncond_text_embeddings_vd[sides])
    above = out.get_text_embeddings(*cameras(0.0, 180.0, elevation_deg=51.0))
    assert torch.equal(above[:2], text[[3, 3]])
    plain = out.get_text_embeddings(*cameras(0.0, 180.0), view_dependent_prompting=False)
    assert torch.equal(plain[:2], out.text_embeddings.expand(2, -1, -1))


# Perp-Neg


def test_perp_neg_blends_neighbouring_sides():
    """At 30 degrees two thirds front, one third side; at -120 one third back, two thirds side."""
    out = make(use_perp_neg=True, perp_neg_f_sb=[2, 0.1, -1])()
    assert out.use_perp_neg
    text, weights = out.get_text_embeddings_perp_neg(*cameras(30.0, -120.0))
    side, front, back = out.text_embeddings_vd[:3]
    positive, uncond, negative = text[:2], text[2:4], text[4:].unflatten(0, (2, 2))
    torch.testing.assert_close(positive[0], (2 * front + side) / 3)
    torch.testing.assert_close(positive[1], (2 * side + back) / 3)
    assert torch.equal(uncond, out.uncond_text_embeddings_vd[[1, 0]])
    assert torch.equal(negative[0], torch.stack([front, side]))
    assert torch.equal(negative[1], torch.stack([side, front]))

    def f(a, b, c, r):
        return -(a * math.exp(-b * r) + c)

    expected = [
        [f(4, 0.5, -2.426, 2 / 3), f(4, 0.5, -2.426, 1 / 3)],
        [f(2, 0.1, -1, 2 / 3), f(1, 0.5, 0.967, 2 / 3)],
    ]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_perp_neg_weights_vanish_where_the_negative_is_the_positive():
    _, weights = make()().get_text_embeddings_perp_neg(*cameras(0.0, 90.0))
    assert weights[0, 0].item() == pytest.approx(0, abs=1e-3)  # front is not pushed off the front
    assert weights[1, 0].item() == pytest.approx(0, abs=1e-3)  # nor side off the side


def test_perp_neg_leaves_views_from_overhead_alone():
    out = make()()
    text, weights = out.get_text_embeddings_perp_neg(*cameras(10.0, 100.0, elevation_deg=70.0))
    uncond = out.uncond_text_embeddings_vd[3]
    assert torch.equal(text[:2], out.text_embeddings_vd[[3, 3]])
    assert torch.equal(text[2:], uncond.expand(6, 1, -1))
    assert torch.equal(weights, torch.zeros(2, 2))


def test_perp_neg_without_view_dependent_prompts_is_an_error():
    with pytest.raises(ValueError, match="use_perp_neg=true.*view_dependent_prompting=true"):
        make()().get_text_embeddings_perp_neg(*cameras(0.0), view_dependent_prompting=False)


# mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_prompt_debiasing": True}, "use_prompt_debiasing=true"),
        ({"promt": "a cat"}, "promt.*did you mean 'prompt'"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_the_stock_processor_names_the_one_to_use():
    with pytest.raises(ValueError, match="no text encoder.*write jointdreamer-prompt-processor"):
        threestudio.find("stable-diffusion-prompt-processor")({"prompt": PROMPT})
