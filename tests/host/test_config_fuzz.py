"""Each key of some configs deleted, misspelt, given another type, or out of range.

Either the config is refused, in one line that names the key, or the run has what was asked for.
JOINTDREAMER_FUZZ=all in the environment tries all cases and not a sample.
"""

import copy
import math
import os
import random
from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from jointdreamer.host import errors, session
from jointdreamer.host.options import parse_arguments
from jointdreamer.slugs import folder_name

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("configs/tiny/jointdreamer.yaml", "configs/jointdreamer.yaml", "configs/tiny/sum.yaml")
VALUES = (
    *([], [1, 2], {}, {"a": 1}, "words", "", None, True, 7, 3.7, 2.0, "${nowhere}", "[0, 1]"),
    *(0, -1, -0.5, 10**12, math.nan, math.inf, [math.nan, 1.0], [-1, 5]),
)
DELETED = object()
FOLDERS = (("name",), ("tag",))
NAMED_BY_THE_USER = ("energies", "params")  # of the latter the system knows when it is built
ALL = os.environ.get("JOINTDREAMER_FUZZ") == "all"


@cache
def content_of(config):
    content = OmegaConf.to_container(OmegaConf.load(ROOT / config))
    content["system"]["prompt_processor"]["prompt"] = "a green bear"
    return content


def keys(block, path=()):
    for name, value in block.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from keys(value, (*path, name))


def cases():
    for config in CONFIGS:
        for path in keys(content_of(config)):
            name = path[-1]
            for misspelt in (name[:-1], f"{name}s", name[1:] + name[0]):
                yield config, path, misspelt, DELETED
            for value in (DELETED, *VALUES):
                yield config, path, name, value


def changed(config, path, name, value):
    """The config with the last key of the path renamed, or with another value, or without it."""
    content = block = copy.deepcopy(content_of(config))
    for part in path[:-1]:
        block = block[part]
    old = block.pop(path[-1])
    if name != path[-1]:
        block[name] = old
    elif value is not DELETED:
        block[name] = copy.deepcopy(value)
    return content


def same(got, asked):
    if isinstance(asked, dict):
        return all(name in got and same(got[name], item) for name, item in asked.items())
    if isinstance(asked, list):
        return len(got) == len(asked) and all(map(same, got, asked))
    if asked is None and got == {}:
        return True
    if asked == "true" or isinstance(asked, bool):
        return got is True
    return got == asked or str(got) == str(asked)


def fault_of(config, path, name, value, tmp_path):
    """What is wrong with how the launcher takes this change; None if nothing is."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(config, path, name, value)))
    given = [f"exp_root_dir={tmp_path}"] if path[0] != "exp_root_dir" else []
    key = ".".join([*path[:-1], name])
    try:
        with errors.as_plain_errors():
            options = parse_arguments(["--config", str(file), "--train", *given])
            parsed = session.resolved(session.written(options))
    except (ValueError, FileNotFoundError) as error:
        names = [key, ".".join(path)]
        if path[-2:-1] and path[-2] in NAMED_BY_THE_USER:  # another key may need what is gone
            names.append(".".join(path[:-1]))
        if "\n" in str(error) or not any(name in str(error) for name in names):
            return f"the key is not named in: {error}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if name != path[-1]:
        return None if path[-2] in NAMED_BY_THE_USER else "a misspelt key is accepted"
    got = OmegaConf.to_container(parsed)
    if value is not DELETED:
        for part in path:
            got = got[part]
        if not same(got, value) and not (path in FOLDERS and got == folder_name(str(value))):
            return f"accepted as {got!r}"
    return None


@pytest.mark.timeout(0 if ALL else 120)
def test_a_wrong_value_is_refused_or_what_was_asked_for_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    for case in list(cases()) if ALL else random.Random(0).sample(list(cases()), 60):
        if fault := fault_of(*case, tmp_path):
            config, path, name, value = case
            found[config, ".".join([*path[:-1], name]), repr(value)] = fault
    assert not found, "\n".join(f"{case}: {fault}" for case, fault in found.items())
