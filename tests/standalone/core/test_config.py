"""Loading configs, checking them against dataclasses, and what is said about mistakes."""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf
from threestudio.utils.config import (
    C_max,
    ExperimentConfig,
    config_key,
    config_to_primitive,
    dump_config,
    load_config,
    parse_structured,
)


@dataclass
class Settings:
    guidance_scale: Any = 7.5
    n_view: int = 4
    span: tuple[float, float] = (0.0, 1.0)
    energy: dict = field(default_factory=dict)


class Guidance:
    @dataclass
    class Config:
        guidance_scale: float = 1.0


def test_defaults_fill_in_what_is_not_given_and_values_get_the_declared_type():
    cfg = parse_structured(Settings, {"n_view": "2"})
    assert (cfg.guidance_scale, cfg.n_view, list(cfg.span)) == (7.5, 2, [0.0, 1.0])
    assert parse_structured(Settings).n_view == 4


def test_a_misspelt_key_is_told_with_its_place_class_and_close_matches():
    root = OmegaConf.create({"system": {"guidance": {"guidance_scal": 1}}})
    with pytest.raises(ValueError) as error:
        parse_structured(Guidance.Config, root.system.guidance)
    text = str(error.value)
    assert text.startswith("system.guidance.guidance_scal: Guidance has no key 'guidance_scal'")
    assert "did you mean 'guidance_scale'?" in text
    assert "known keys: guidance_scale" in text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("four", r"data\.n_view does not fit Settings\.n_view.*'four'"),
        ("???", r"data\.n_view is required: add data\.n_view=\.\.\."),
    ],
)
def test_a_wrong_or_missing_value_is_told_with_its_full_key(value, message):
    with pytest.raises(ValueError, match=message):
        parse_structured(Settings, OmegaConf.create({"data": {"n_view": value}}).data)


def test_a_field_without_default_is_mandatory():
    with pytest.raises(ValueError, match="prompt is required"):
        parse_structured(make_dataclass("Prompt", [("prompt", str)]), {})


def test_nested_configs_remember_where_they_stand():
    root = OmegaConf.create({"system": {"guidance": {"energy": {"weight": [0, 1.0, 2.0, 3]}}}})
    guidance = parse_structured(Settings, root.system.guidance)
    inner = parse_structured(Settings, {"guidance_scale": 1})
    assert config_key(guidance.energy.weight) == "system.guidance.energy.weight"
    assert config_key(inner) == "" and config_key(3) == ""


def test_parsing_does_not_change_the_config_it_reads():
    root = OmegaConf.create({"data": {"energy": {"a": 1}}})
    parsed = parse_structured(Settings, root.data)
    parsed.energy.a = 2
    assert root.data.energy.a == 1


def write(path, text):
    path.write_text(text)
    return str(path)


def test_files_then_overrides_then_keywords_win(tmp_path):
    first = write(tmp_path / "a.yaml", "tag: a\nseed: 1\ndescription: first\nname: n")
    second = write(tmp_path / "b.yaml", "seed: 2\ndescription: second")
    cfg = load_config(first, second, cli_args=["description=third", "name=cli"], name="keyword")
    assert (cfg.seed, cfg.description, cfg.name) == (2, "third", "keyword")


def test_trial_dir_is_root_name_and_tag_with_time(tmp_path):
    text = "name: n\ntag: a_bear\nexp_root_dir: outputs"
    assert (
        load_config(text, from_string=True, cli_args=["use_timestamp=false"]).trial_dir
        == "outputs/n/a_bear"
    )
    stamped = load_config(text, from_string=True)
    assert stamped.trial_dir.startswith("outputs/n/a_bear@20")
    again = load_config(text, from_string=True, timestamp=stamped.timestamp)
    assert again.trial_dir == stamped.trial_dir


def test_loading_a_config_creates_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_config("tag: t", from_string=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_needs_a_tag_or_a_timestamp():
    with pytest.raises(ValueError, match=r"use_timestamp=false and tag is empty.*set tag="):
        load_config("use_timestamp: false", from_string=True)


def test_several_gpus_get_no_timestamp():
    assert load_config("tag: t", from_string=True, n_gpus=2).trial_name == "t"


def test_a_missing_prompt_is_told_even_if_the_tag_is_made_of_it():
    text = """
    tag: ${rmspace:${system.prompt_processor.prompt},_}
    system:
      geometry_convert_from: ???
      prompt_processor:
        prompt: ???
    """
    with pytest.raises(ValueError, match="geometry_convert_from is required.*Also missing: system"):
        load_config(text, from_string=True)
    with pytest.raises(ValueError, match=r"add system\.prompt_processor\.prompt=\.\.\. to the com"):
        load_config(text, from_string=True, cli_args=["system.geometry_convert_from=x"])
    cfg = load_config(
        text,
        from_string=True,
        cli_args=["system.prompt_processor.prompt=a big bear", "system.geometry_convert_from=x"],
    )
    assert cfg.tag == "a_big_bear"


def test_resolvers_compute_as_threestudio_does():
    cfg = OmegaConf.create(
        {
            "a": "${add:1,2}",
            "b": "${sub:1,2}",
            "c": "${mul:3,2}",
            "d": "${div:3,2}",
            "e": "${idiv:7,2}",
            "f": "${basename:x/y.txt}",
            "g": "${tuple2:2}",
            "h": "${not:${gt0:1}}",
            "i": "${calc_exp_lr_decay_rate:0.01,2}",
            "schedule": [0, 0.0, 5.0, 10],
            "j": "${cmaxgt0:${schedule}}",
            "k": "${cmaxgt0orcmaxgt0:0,${schedule}}",
        }
    )
    OmegaConf.resolve(cfg)
    assert [cfg[key] for key in "abcdef"] == [3, -1, 6, 1.5, 3, "y.txt"]
    assert cfg.g == [2.0, 2.0] and cfg.h is False and cfg.i == pytest.approx(0.1)
    assert cfg.j is True and cfg.k is True


def test_c_max_is_the_largest_value_of_a_schedule():
    schedules = [[1.0, 4.0, 10], [5, 9.0, 4.0, 10], [0, 1.0, 2.0, 5, 8.0, 9]]
    assert [C_max(3), *map(C_max, schedules)] == [3, 4.0, 9.0, 8.0]


def test_broken_files_are_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml.*--config"):
        load_config(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ValueError, match=r"broken\.yaml' is not valid YAML"):
        load_config(write(tmp_path / "broken.yaml", "a: [1"))
    with pytest.raises(ValueError, match=r"list\.yaml' must hold `key: value` lines"):
        load_config(write(tmp_path / "list.yaml", "- 1"))


def test_an_unknown_top_level_key_is_told():
    with pytest.raises(ValueError, match=r"sytem: ExperimentConfig has no key 'sytem'.*'system'"):
        load_config("tag: t\nsytem: {}", from_string=True)


def test_a_dumped_config_loads_to_the_same_values(tmp_path):
    cfg = load_config("tag: t\nsystem: {loss: {lambda_sds: 1.0}}", from_string=True)
    dump_config(str(tmp_path / "parsed.yaml"), cfg)
    again = load_config(str(tmp_path / "parsed.yaml"))
    assert config_to_primitive(again) == config_to_primitive(cfg)
    assert again.trial_dir == cfg.trial_dir
    assert [file.name for file in tmp_path.iterdir()] == ["parsed.yaml"]


def test_experiment_defaults_are_threestudios():
    cfg = ExperimentConfig(tag="t", use_timestamp=False)
    assert (cfg.name, cfg.seed, cfg.exp_root_dir, cfg.resume) == ("default", 0, "outputs", None)
