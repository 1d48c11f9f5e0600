"""Files that list prompts."""

import json
from pathlib import Path

from .paths import find_file


def read_prompts(path: str | Path, named: str) -> list[str]:
    """The prompts of a JSON list, or of a text file with one on each line, but empty ones.

    Args:
        named: what the user calls the file, such as `--prompts`.

    Raises:
        FileNotFoundError: there is no such file, here or among what is shipped.
        ValueError: it holds no list of texts.
    """
    file = find_file(path, named)
    try:
        text = file.read_text(encoding="utf-8")
        prompts = json.loads(text) if file.suffix.lower() == ".json" else text.splitlines()
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{named} {path} does not read as text or JSON ({error}).") from error
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f'{named} {path} must hold a list of texts, as ["a cat", "a dog"].')
    if found := [prompt for prompt in prompts if prompt.strip()]:
        return found
    raise ValueError(f"{named} {path} holds no prompts. Write at least one.")
