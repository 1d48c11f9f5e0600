"""Folder names for prompts."""

import hashlib
import re


def slug(text: str, with_hash: bool = False) -> str:
    """A safe folder name for any text.

    Args:
        with_hash: always end with a part of the text's SHA-256, so that no two texts share a name;
            else only where the name alone would be empty or too long.

    Example:
        >>> slug("A green bear, it's big"), slug("A green bear", with_hash=True)
        ('a_green_bear_it_s_big', 'a_green_bear-ae4eb3')
    """
    words = re.sub(r"[^\w-]+", "_", text.strip().lower()).strip("_")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if with_hash:
        return f"{words[:60]}-{digest[:6]}"
    return words if words and len(words) <= 80 else f"{words[:70]}_{digest[:8]}"
