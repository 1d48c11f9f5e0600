"""CLIP score, R-Precision, roughness and intervals against closed forms."""

import json
import math
import random

import pytest
import torch

from jointdreamer.evaluation.clip_score import clip_score, similarities
from jointdreamer.evaluation.intervals import mean_interval, rate_interval
from jointdreamer.evaluation.r_precision import distinct, place_of, retrieve
from jointdreamer.evaluation.smoothness import roughness
from jointdreamer.prompt_lists import read_prompts


def test_clip_score_is_the_mean_cosine_in_percent_whatever_the_lengths():
    images = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-2.0, 0.0]])
    assert clip_score(images, torch.tensor([7.0, 0.0])) == pytest.approx(0.0, abs=1e-6)
    assert clip_score(images[:2], torch.tensor([1.0, 1.0])) == pytest.approx(100 / math.sqrt(2))
    assert similarities(images, torch.eye(2))[2].tolist() == [-100.0, 0.0]


def test_r_precision_is_the_share_of_views_that_rank_their_own_prompt_first():
    scores = torch.tensor([[9.0, 1.0, 2.0], [3.0, 5.0, 1.0], [8.0, 7.0, 6.0], [1.0, 4.0, 3.0]])
    assert retrieve(scores, own=0) == (50.0, 1)
    assert retrieve(scores, own=2)[1] == 3
    assert retrieve(torch.zeros(4, 10), own=0) == (0.0, 10)  # of a CLIP that tells nothing apart


def test_prompts_that_differ_in_case_or_full_stop_are_one():
    prompts = ["A cat.", "a dog", "a cat", "a  DOG."]
    assert distinct(prompts) == ["A cat.", "a dog"]
    assert place_of("A Dog.", prompts) == 1
    assert place_of("a cow", prompts) is None


def test_prompts_are_read_from_json_and_text(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["a cat", "", "a dog"]))
    (tmp_path / "b.txt").write_text("a cat\n\na dog\n")
    read = [read_prompts(tmp_path / name, "--prompts") for name in ("a.json", "b.txt")]
    assert read == [["a cat", "a dog"]] * 2


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]", "[]", '[" "]', "\udcff"])
def test_bad_prompt_file_is_named(tmp_path, content):
    path = tmp_path / "prompts.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"--prompts .*prompts\.json"):
        read_prompts(path, "--prompts")


def noisy(sigma: float, trend=lambda step: 1.0, scale: float = 1.0) -> list[tuple[int, float]]:
    rng = random.Random(0)
    return [(i, scale * trend(i) * math.exp(rng.gauss(0, sigma))) for i in range(2000)]


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_roughness_is_the_scatter_whatever_unit_and_trend(sigma):
    plain = roughness(noisy(sigma))
    assert plain == pytest.approx(sigma, rel=0.15)  # the median follows the noise a little
    assert roughness(noisy(sigma, scale=1e4)) == pytest.approx(plain)
    falling = roughness(noisy(sigma, trend=lambda step: math.exp(-step / 400)))
    assert falling == pytest.approx(plain, rel=0.02)


def test_a_jump_is_not_rough_too_little_is_unknown_and_impossible_values_are_left_out():
    steps = [(i, 1.0 if i < 50 else 100.0) for i in range(100)]
    assert roughness(steps) == pytest.approx(0.0, abs=1e-9)
    curve = noisy(0.3)
    with_impossible = [*curve, (2000, math.nan), (2001, 0.0), (2002, math.inf), (2003, -1.0)]
    assert roughness(with_impossible) == roughness(curve)
    assert roughness(curve[:10]) is None and roughness(curve[:11]) is not None


def test_wilson_interval_matches_published_numbers():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert rate_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert rate_interval(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_bootstrap_covers_as_the_normal_interval_of_a_mean_does():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = mean_interval(values, range(200))
    mean, reach = sum(values) / 200, 1.96 * torch.tensor(values).std().item() / math.sqrt(200)
    assert (low, high) == pytest.approx((mean - reach, mean + reach), abs=0.02)


def test_more_seeds_of_the_same_prompts_do_not_feign_evidence():
    values = [float(i) for i in range(10)]
    once = mean_interval(values, range(10))
    thrice = mean_interval(values * 3, [*range(10)] * 3)
    assert thrice == pytest.approx(once)
    assert mean_interval(values[:4], range(4)) is None
