"""What a config's field may hold: its type, and beside it in `Annotated` what else is asked of it.

    n_view: Annotated[int, "[1, inf)"] = 4  # an interval, for every number in it
    noise: Annotated[str, ("shared", "fresh")] = "fresh"  # one of these
    save_name: Annotated[str, re.compile(r"[^/\\\\]+")] = "model"  # matched as a whole
    width: Annotated[Any, int | list[int]] = 64  # a type that OmegaConf lacks
    energy_weight: Annotated[Any, StepSchedule] = 1.0  # anything called with the value and its key
    fading: Annotated[dict | None, FadingConfig] = None  # a block of that dataclass's fields
    encoding: Annotated[dict, {"HashGrid": Grid}]  # of the dataclass that its otype names

Numbers are finite unless their interval is closed at infinity. A whole number is a number, be it
written 5 or 5.0; nothing else is taken for what it is not.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a block of keys and values",
    type(None): "null",
}


def parse_fields(config: Any, key: str) -> None:
    """Gives the fields of a dataclass's instance their declared types, in its `__post_init__`.

    Args:
        key: of the block that it is made from.

    Raises:
        ValueError: a value that its field does not allow; names its key.
    """
    for name, hint in field_hints(type(config)).items():
        setattr(config, name, parse_value(getattr(config, name), hint, f"{key}.{name}"))


def field_hints(config: type) -> dict[str, Any]:
    """The hints of the fields that a config may set, annotations included."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def parse_block(block: Mapping, hints: Mapping[str, Any], owner: str, key: str) -> dict:
    """The block with its values as `hints` declare them.

    Args:
        owner: whose keys these are.
        key: where the block stands; "" for a whole config.

    Raises:
        ValueError: for an unknown key, with close ones, and as `parse_value`.
    """
    prefix = f"{key}." if key else ""
    for name in block:
        if name not in hints:
            raise ValueError(
                f"{prefix}{name}: {owner} has no key '{name}': {similar(str(name), hints)}"
                f"known keys: {', '.join(sorted(hints)) or 'none'}."
            )
    return {name: parse_value(value, hints[name], prefix + name) for name, value in block.items()}


def similar(word: str, known: Iterable[str]) -> str:
    """A question for a misspelt word, and a space; empty if nothing is close."""
    known = list(known)
    swapped = [name for name in known if sorted(name) == sorted(word)]  # rl for lr
    close = swapped or difflib.get_close_matches(word, known, n=2)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


def parse_value(value: Any, hint: Any, key: str) -> Any:
    """The value as its hint declares it; an interpolation or a missing value as it is.

    Raises:
        ValueError: it is of another type, or not what its annotations ask for; names its key.
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, str) and ("${" in value or value == "???"):
        return value
    bare, rules = hint, ()
    if get_origin(hint) is Annotated:
        bare, *rules = get_args(hint)
        if bare is Any and isinstance(rules[0], types.UnionType):
            bare, *rules = rules
    try:
        value = _typed(value, bare, key)
    except TypeError:
        names = next((rule for rule in rules if isinstance(rule, tuple)), None)
        expected = _expected(bare) if names is None else _expected(Literal[names])
        raise ValueError(f"{key}={_shown(value)} does not fit: give {expected}.") from None
    if not isinstance(value, dict) and not any(isinstance(rule, str) for rule in rules):
        check_interval(value, "(-inf, inf)", key)
    for rule in rules if value is not None or bare is Any else ():
        value = _checked(value, rule, key)
    return value


def check_interval(value: Any, interval: str, key: str) -> None:
    """Checks a number, and those in a list or a block.

    Args:
        interval: such as "[0, 1)". NaN is in none.

    Raises:
        ValueError: one is outside.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_interval(item, interval, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_interval(item, interval, f"{key}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = map(float, interval[1:-1].split(","))
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{key}={value} is out of range: give a number in {interval}.")


def _checked(value: Any, rule: Any, key: str) -> Any:
    """The value, if it keeps this rule of its field's annotation."""
    if isinstance(rule, str):
        check_interval(value, rule, key)
    elif isinstance(rule, tuple):
        if value not in rule:
            known = [_shown(name).strip("'") for name in rule]
            hint = similar(str(value), known)
            raise ValueError(
                f"{key}={_shown(value)} is unknown: {hint}use one of {', '.join(known)}."
            )
    elif isinstance(rule, re.Pattern):
        if not rule.fullmatch(value):
            raise ValueError(f"{key}={_shown(value)} is not allowed: it must fit {rule.pattern}.")
    elif isinstance(rule, Mapping):
        _checked(value.get("otype"), tuple(rule), f"{key}.otype")
        return _checked(value, rule[value["otype"]], key)
    elif dataclasses.is_dataclass(rule):
        for field in dataclasses.fields(rule):
            needed = field.default is field.default_factory is dataclasses.MISSING
            if needed and field.name not in value:
                raise ValueError(f"{key}.{field.name} is required: add it to the config.")
        return parse_block(value, field_hints(rule), rule.__name__, key)
    else:
        rule(value, key)
    return value


def _typed(value: Any, hint: Any, key: str) -> Any:
    """
    Raises:
        TypeError: the value is not of this type, nor another way to write one.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or type(value) is hint:
        return value
    if origin is Annotated:
        return parse_value(value, hint, key)
    if origin in (Union, types.UnionType):
        for option in sorted(args, key=lambda option: type(value) is not option):
            with suppress(TypeError):
                return _typed(value, option, key)
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in args):
            return value
    elif (kind := origin or hint) in (list, tuple) and isinstance(value, list | tuple):
        fixed = kind is tuple and args and args[-1] is not Ellipsis
        hints = args if fixed else (args or (Any,))[:1] * len(value)
        if len(hints) == len(value):
            return type(value)(
                _typed(item, hint, f"{key}[{index}]")
                for index, (item, hint) in enumerate(zip(value, hints, strict=True))
            )
    elif kind is dict and isinstance(value, dict):
        return {k: parse_value(v, (*args, Any, Any)[1], f"{key}.{k}") for k, v in value.items()}
    elif hint is bool and value in ("true", "false"):
        return value == "true"
    elif hint in (int, float, str):
        return _scalar(value, hint)
    elif not isinstance(kind, type) or isinstance(value, kind):
        return value
    raise TypeError


def _scalar(value: Any, kind: type) -> int | float | str:
    """A number or a text that may be written as the other one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    try:
        converted = kind(value)
    except (ValueError, OverflowError):
        raise TypeError from None
    if kind is int and isinstance(value, float) and converted != value:
        raise TypeError
    return converted


def _shown(value: Any) -> str:
    """As it is written in YAML, but for lists and blocks."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value) if len(repr(value)) < 100 else f"{repr(value)[:100]}..."


def _expected(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_expected, args))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(dict.fromkeys(map(str, args)))}"
    if get_origin(hint) in (list, tuple):
        return f"a list of {' and '.join(_expected(arg) for arg in args if arg is not Ellipsis)}"
    kind = get_origin(hint) or hint
    return EXPECTED.get(kind, getattr(kind, "__name__", str(kind)))
