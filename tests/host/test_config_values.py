"""Values that do not fit their keys are told in one line, before anything is built."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import threestudio
import torch
from omegaconf import OmegaConf
from threestudio_jointdreamer.data.multiview_camera import MultiviewCameraConfig
from threestudio_jointdreamer.energies import Energy

from jointdreamer.host import errors
from jointdreamer.host.checkpoints import telling_what_does_not_fit
from jointdreamer.host.options import parse_arguments
from jointdreamer.host.session import _differing, resolved, written
from jointdreamer.slugs import folder_name

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY, FULL = CONFIGS / "tiny" / "jointdreamer.yaml", CONFIGS / "jointdreamer.yaml"
PROMPT = "system.prompt_processor.prompt"
GUIDANCE, GEOMETRY = "system.guidance", "system.geometry"
OPTIMIZER, SCHEDULER = "system.optimizer", "system.scheduler"


def config_of(*items, config=TINY):
    """What a run with these overrides would be built from."""
    with errors.as_plain_errors():
        options = parse_arguments(["--config", str(config), "--train", f"{PROMPT}=a bear", *items])
        return resolved(written(options))


def refusal(*items, config=TINY):
    with pytest.raises(ValueError) as error:
        config_of(*items, config=config)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "item",
    [
        *("data.camera_perturb=.nan", "data.up_perturb=-1", "data.fovy_range=[0,40]"),
        *("data.n_view=0", "data.eval_height=0", "data.eval_camera_distance=.inf"),
        *("data.light_distance_range=[2,1]", "data.n_test_views=-3", "data.zoom_range=[0.5,.nan]"),
        *(f"{GEOMETRY}.radius=0", f"{GEOMETRY}.radius=.inf", f"{GEOMETRY}.density_blob_std=0"),
        *(f"{GEOMETRY}.isosurface_threshold=.nan", f"{GEOMETRY}.isosurface_resolution=1"),
        *(f"{GEOMETRY}.pos_encoding_config.n_levels=0", "system.renderer.num_samples_per_ray=0"),
        *(f"{GUIDANCE}.guidance_scale=.inf", f"{GUIDANCE}.energy_weight=[100,0.5,.nan,400]"),
        *(f"{GUIDANCE}.energy.recon_std_rescale=1.5", f"{GUIDANCE}.min_step_percent=-0.1"),
        *("system.loss.lambda_sds=-1", "system.geometry_fading.start_step=-1", "seed=-1"),
        *("system.geometry_fading.lr.background=-1", "system.exporter.n_faces=0"),
        *("system.background.color=[.nan,0,0]", "system.prompt_processor.front_threshold=200"),
        *(f"{OPTIMIZER}.args.betas=[0.9,1]", f"{OPTIMIZER}.params.background.lr=-0.1"),
        *("trainer.max_steps=-2", "trainer.gradient_clip_val=.nan", "trainer.log_every_n_steps=0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_key(item):
    assert item.partition("=")[0] in refusal(item)


def test_views_of_one_object_are_so_many_for_the_cameras_and_for_the_guidance():
    for item in (f"{GUIDANCE}.n_view=2", f"{GUIDANCE}.n_view=1"):
        text = refusal(item)
        assert "data.n_view=4" in text and item in text
    cfg = config_of("data.n_view=2")
    assert cfg.data.n_view == cfg.system.guidance.n_view == 2


@pytest.mark.parametrize(
    ("item", "meant"),
    [
        (f"{OPTIMIZER}.params={{geometry.encoding: {{rl: 0.06}}}}", "lr"),
        (f"{OPTIMIZER}.params.background.weight_decy=0.1", "weight_decay"),
        (f"{OPTIMIZER}.args.beta=[0.9,0.99]", "betas"),
        (f"{OPTIMIZER}.arg.eps=1", "args"),
        (f"{OPTIMIZER}.name=Adamm", "Adam"),
        (f"{SCHEDULER}={{name: ExponentialLR, args: {{gama: 0.9}}}}", "gamma"),
        (f"{SCHEDULER}={{name: ExponentialLR, argss: {{gamma: 0.9}}}}", "args"),
        (f"{GEOMETRY}.pos_encoding_config.n_level=4", "n_levels"),
        (f"{GEOMETRY}.mlp_network_config.n_neuron=4", "n_neurons"),
        (f"{GEOMETRY}.pos_encoding_config.otype=HashGird", "HashGrid"),
        ("system.loss.lambda_orientt=1", "lambda_orient"),
        ("system.geometry_fading.start=1", "start_step"),
        (f"{GUIDANCE}.energy.noises=fresh", "noise"),
    ],
)
def test_a_misspelt_key_of_a_free_block_is_told_with_what_was_meant(item, meant):
    assert f"did you mean '{meant}'" in refusal(item)


@pytest.mark.parametrize(
    "item",
    [
        *("data.n_view=[1,2]", "data.n_view={a: 1}", "data.n_view=null", "data.n_view=2.5"),
        *("data.relative_radius={a: 1}", "data.relative_radius=[]", "data.relative_radius=2"),
        *("data=[1]", "data=3", "system=[1,2]", f"{GUIDANCE}=[]", f"{GUIDANCE}.energy=7"),
        *(f"{OPTIMIZER}.params=[1]", f"{OPTIMIZER}.args=3", "trainer=[]", "checkpoint=words"),
        *("data.width[0]=16", "data.width.a=16", f"{GEOMETRY}[radius]=x", "seed[1]=3"),
        *("data.fovy_range=[1,2,3]", "data.fovy_range=40", f"{GEOMETRY}.normal_type=[]"),
        *(f"{GEOMETRY}.pos_encoding_config=[]", "system.renderer.grid_prune={}"),
        *("trainer.max_steps=many", "trainer.enable_progress_bar=[1]", "seed=1.5"),
        *("checkpoint.save_last={a: 1}", f"{GUIDANCE}.compile=maybe", "name=[a]"),
        *(
            "trainer.precision=17",
            "trainer.precision=bf16-true",
            f"{GUIDANCE}.energy_weight={{a: 1}}",
            "resume=[a]",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key(item):
    assert item.partition("=")[0].partition("[")[0] in refusal(item)


@pytest.mark.parametrize(
    "item",
    [
        f"{GEOMETRY}.isosurface_threshold=high",
        f"{GEOMETRY}.density_bias=blob",
        f"{GEOMETRY}.normal_type=analytical",
        f"{GEOMETRY}.density_activation=softpluss",
        "system.renderer.estimator=importance",
        "system.material.color_activation=conv2d",
        "system.exporter.fmt=fbx",
        f"{GUIDANCE}.timestep_per=view",
        "data.light_sample_strategy=sun",
        f"{PROMPT}= ",
        f"{PROMPT}=lib:hamburger",
    ],
)
def test_an_unknown_word_is_refused_by_its_key(item):
    assert item.partition("=")[0] in refusal(item)


def test_formats_of_threestudios_exporter_are_known():
    items = ["system.exporter_type=mesh-exporter", "system.exporter={fmt: fbx}"]
    assert "system.exporter.fmt='fbx' is unknown: use one of obj-mtl, obj, glb." in refusal(*items)


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        (f"{GEOMETRY}.isosurface_threshold", "5", 5.0),
        (f"{GEOMETRY}.isosurface_threshold", "auto", "auto"),
        (f"{GEOMETRY}.density_bias", "-1", -1.0),
        (f"{GEOMETRY}.radius", "2", 2.0),
        ("data.fovy_range", "[38,42]", [38.0, 42.0]),
        ("data.n_view", "4.0", 4),
        ("data.width", "[16.0,32]", [16, 32]),
        (f"{GUIDANCE}.energy_weight", "1", 1),
        (f"{OPTIMIZER}.args.eps", "1", 1.0),
        ("trainer.max_steps", "3e2", 300),
        ("checkpoint.every_n_train_steps", "50.0", 50),
    ],
)
def test_a_whole_number_is_a_number(key, given, meant):
    assert OmegaConf.select(config_of(f"{key}={given}"), key) == meant


TEXTS = [
    *("a red bear #3", "/red/bear", "${x}", "a: b", "[x]", "{a: 1}", "a bear, it's big", '"'),
    *('a "big" bear', "ein Bär", "赤いクマ", "🐻", "- bear", "null", "true", "3", "..", "a\\b"),
    *("\\${x} bear", "a bear ", "* bear", "&a bear", "!bear", "a = b", "bear " * 200, "~", "CON."),
]


@pytest.mark.parametrize("prompt", TEXTS, ids=lambda text: text[:20])
def test_a_prompt_is_text_whatever_it_holds(prompt, tmp_path):
    cfg = config_of(f"{PROMPT}={prompt}", f"exp_root_dir={tmp_path}")
    processor = OmegaConf.to_container(cfg, resolve=True)["system"]["prompt_processor"]
    assert processor["prompt"] == prompt
    folder = Path(cfg.trial_dir)
    assert folder.parent == tmp_path / "tiny-jointdreamer"
    folder.mkdir(parents=True)


@pytest.mark.parametrize("quoted", ['"a bear #3"', "'a bear #3'"])
def test_quotes_around_a_whole_prompt_are_not_part_of_it(quoted):
    for key in (PROMPT, "system.prompt_processor.negative_prompt"):
        assert OmegaConf.select(config_of(f"{key}={quoted}"), key) == "a bear #3"


@pytest.mark.parametrize("text", [*TEXTS, "", "COM1", "a/../../b", "é" * 300])
def test_a_folders_name_is_one_part_of_a_path(text, tmp_path):
    name = folder_name(text)
    assert Path(name).name == name and len(name.encode()) <= 255
    assert folder_name(name) == name and folder_name(f"{text}x") != name
    (tmp_path / name).mkdir()


def test_keys_of_the_former_type_are_dropped_and_said(register, caplog):
    @register("my-energy")
    class MyEnergy(Energy):
        @dataclass
        class Config(Energy.Config):
            guidance_scale: float = 1.0
            sharpness: int = 2

    caplog.set_level("INFO", logger="pytorch_lightning.utilities.rank_zero")
    cfg = config_of(f"{GUIDANCE}.energy_type=my-energy", f"{GUIDANCE}.energy.sharpness=3")
    assert cfg.system.guidance.energy == {"guidance_scale": 1.0, "sharpness": 3}
    said = [text for text in caplog.messages if "my-energy" in text]
    assert len(said) == 1 and "pretrained_model_name_or_path" in said[0]
    text = refusal(f"{GUIDANCE}.energy_type=my-energy", f"{GUIDANCE}.energy.sharpnes=3")
    assert "did you mean 'sharpness'" in text
    assert config_of(f"{GUIDANCE}.energy_type=jsd-zero-energy").system.guidance.energy == {}
    exporter = config_of("system.exporter_type=mesh-exporter", "system.exporter.fmt=obj")
    assert exporter.system.exporter == {"fmt": "obj", "texture_size": 512}


@pytest.mark.parametrize(
    ("items", "block", "left"),
    [
        ([f"{OPTIMIZER}.name=SGD"], f"{OPTIMIZER}.args", {}),
        ([f"{OPTIMIZER}.name=RMSprop"], f"{OPTIMIZER}.args", {"eps": 1e-15}),
        (
            [
                f"{GEOMETRY}.pos_encoding_config.{k}"
                for k in ("otype=SphericalHarmonics", "degree=3")
            ],
            f"{GEOMETRY}.pos_encoding_config",
            {"otype": "SphericalHarmonics", "degree": 3},
        ),
    ],
)
def test_keys_of_the_former_optimizer_or_encoding_are_dropped(items, block, left, caplog):
    caplog.set_level("INFO", logger="pytorch_lightning.utilities.rank_zero")
    assert OmegaConf.select(config_of(*items), block) == left
    assert len([text for text in caplog.messages if "left out" in text]) == 1
    assert "has no key" in refusal(*items, f"{block}.betass=[0.5,0.5]")
    config_of(*items, "tag=made of no prompt")


@pytest.mark.parametrize(
    "config", [TINY, FULL, CONFIGS / "tiny" / "sum.yaml"], ids=lambda c: c.stem
)
def test_threestudios_own_parser_takes_the_extensions_fields(config):
    cfg = config_of(config=config)
    system = OmegaConf.structured(threestudio.find(cfg.system_type).Config(**cfg.system))
    data = OmegaConf.structured(MultiviewCameraConfig(**cfg.data))
    guidance = OmegaConf.structured(threestudio.find("jsd-guidance").Config(**cfg.system.guidance))
    energy = threestudio.find(guidance.energy_type).Config
    energy = OmegaConf.structured(energy(**guidance.energy))
    pairs = (data, cfg.data), (system, cfg.system), (energy, cfg.system.guidance.energy)
    for parsed, given in (*pairs, (guidance, cfg.system.guidance)):
        plain = json.loads(json.dumps(OmegaConf.to_container(parsed)))  # tuples as lists
        assert {key: plain[key] for key in given} == OmegaConf.to_container(given, resolve=True)


@pytest.mark.parametrize(
    ("kind", "block", "message"),
    [
        ("jsd-guidance", {"n_view": [1]}, "system.guidance.n_view=[1] does not fit"),
        ("jsd-guidance", {"memory": None}, "memory=null does not fit: give one of normal, low."),
        ("jsd-guidance", {"grad_clip": -1}, "system.guidance.grad_clip=-1 is out of range"),
        ("jsd-sum-energy", {"energies": {"a": {}}}, "energy.energies.a.energy_type is required"),
        ("jsd-translation-energy", {"strength": 2}, "energy.strength=2 is out of range"),
    ],
)
def test_threestudios_own_parser_refuses_what_does_not_fit(kind, block, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        OmegaConf.structured(threestudio.find(kind).Config(**OmegaConf.create(block)))


def test_a_checkpoint_of_another_shape_is_told_with_the_settings_that_changed():
    before = OmegaConf.create({"system": {"params": {"a.b": {"lr": 1}}, "n_levels": 4, "n": 1}})
    now = OmegaConf.merge(before, {"system": {"n_levels": 6}})
    assert _differing(before, now) == "system.n_levels=6 (was 4)"
    with pytest.raises(ValueError, match=r"resume=x .* leave out system.n_levels=6 \(was 4\), or"):
        with telling_what_does_not_fit("x", _differing(before, now)):
            torch.nn.Linear(1, 2).load_state_dict(torch.nn.Linear(1, 3).state_dict())
