"""Folder names for prompts."""

import hashlib
import re

LONGEST = 200  # bytes; file systems take 255, and a time may be added


def folder_name(text: str) -> str:
    """The text itself where every file system takes it for one folder's name, else a `slug` of it.

    Example:
        >>> folder_name("a bear@2"), folder_name("/red/bear")
        ('a bear@2', 'red_bear-7d6c14')
    """
    plain = re.fullmatch(r"\w[\w ,+=@.-]*(?<![ .])", text)
    return text if plain and len(text.encode()) <= LONGEST else slug(text, with_hash=True)


def slug(text: str, with_hash: bool = False) -> str:
    """A safe folder name for any text.

    Args:
        with_hash: always end with a part of the text's SHA-256, so that no two texts share a name;
            else only where the name alone would be empty or too long.

    Example:
        >>> slug("A green bear, it's big"), slug("A green bear", with_hash=True)
        ('a_green_bear_it_s_big', 'a_green_bear-ae4eb3')
    """
    words = re.sub(r"[^\w-]+", "_", text.strip().lower()).strip("_-")
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
    short = words and len(words) <= 80 and len(words.encode()) <= LONGEST
    if short and not with_hash:
        return words
    words = words[: 60 if with_hash else 70].encode()[:LONGEST].decode(errors="ignore")
    return (f"{words}-{digest[:6]}" if with_hash else f"{words}_{digest[:8]}").lstrip("-")
