"""Equal weights are held once, and only equal ones."""

import gc
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.priors.loading import load_model, load_prior

CPU = torch.device("cpu")
FILE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def other(sd_folder, tmp_path):
    """Another model's folder with the same VAE."""
    return shutil.copytree(sd_folder, tmp_path / "other")


def load_vae(folder, dtype=torch.float32):
    return load_model(AutoencoderKL, str(folder), "vae", CPU, dtype)


def places(model) -> set[int]:
    return {tensor.data_ptr() for tensor in model.state_dict().values()}


def change_one_number(folder) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / FILE).items()}
    last = sorted(weights)[-1]
    weights[last].view(-1)[-1] += 1e-3
    save_file(weights, folder / FILE)


def test_equal_vaes_of_two_priors_are_held_once(sd_folder, other, mv_folder):
    stable_diffusion = load_prior(sd_folder, CPU, vae_from=sd_folder)
    mvdream = load_prior(mv_folder, CPU, vae_from=other)
    assert places(stable_diffusion.vae) == places(mvdream.vae)
    assert not places(stable_diffusion.unet) & places(mvdream.unet)


def test_one_number_that_differs_keeps_them_apart(sd_folder, other):
    change_one_number(other)
    first, second = load_vae(sd_folder), load_vae(other)
    assert not places(first) & places(second)
    weights = load_file(other / FILE)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in second.state_dict().items())


def test_precisions_are_kept_apart(sd_folder, other):
    assert not places(load_vae(sd_folder)) & places(load_vae(other, torch.float16))


def test_modules_stay_the_callers_own(sd_folder, other):
    """Attention processors and compiled parts of one do not appear in the other."""
    first, second = load_vae(sd_folder), load_vae(other)
    first.encoder = torch.nn.Identity()
    third = load_vae(other)
    assert type(second.encoder) is type(third.encoder) is not torch.nn.Identity
    assert places(second) == places(third)


def test_they_give_the_same_result(sd_folder, other):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = load_vae(sd_folder), load_vae(other)
    with torch.no_grad():
        encoded = [vae.encode(image).latent_dist.mean for vae in (first, second)]
    assert torch.equal(*encoded)


def held(pointers: set[int]) -> bool:
    """Whether any tensor is at one of these places."""
    gc.collect()
    tensors = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.device == CPU)
    return not pointers.isdisjoint(tensor.data_ptr() for tensor in tensors)


def test_weights_are_freed_with_the_last_model_that_uses_them(other):
    change_one_number(other)  # models of other tests may live
    first, second = load_vae(other), load_vae(other)
    pointers = places(first)
    del first
    assert held(pointers)
    del second
    assert not held(pointers)


def test_weights_that_have_moved_elsewhere_are_freed_where_they_were(other):
    """As `offload` moves them off a GPU."""
    change_one_number(other)
    first, second = load_vae(other), load_vae(other)
    pointers = places(first)
    first.to("meta")
    assert held(pointers)
    second.to("meta")
    assert not held(pointers)
