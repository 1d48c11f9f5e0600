"""open_clip's models, which the evaluation and the Janus meter take by name."""

from typing import Any

import torch

PREFIX = "open_clip:"
_EXAMPLE = f"{PREFIX}ViT-B-32/openai"


def load_open_clip(name: str, device: torch.device | str, option: str) -> tuple[Any, Any, Any]:
    """Model (in evaluation mode, without gradients), preprocessing of PIL images, tokenizer.

    Args:
        name: `open_clip:MODEL/PRETRAINED`, a tag or a weights file, `open_clip:hf-hub:OWNER/NAME`
            or `open_clip:local-dir:FOLDER`.
        option: where the user gave the name, such as `--clip`.

    Raises:
        ValueError: open_clip is not installed, or has no such model.
    """
    model, pretrained = split_name(name, option)
    try:
        import open_clip
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        raise ValueError(
            f"{option} {name}: open_clip does not import ({first_line(error)}). Install the extra "
            "`clip`; its torchvision must be the build that belongs to the installed torch."
        ) from error
    try:
        network, preprocess = open_clip.create_model_from_pretrained(
            model, pretrained, device=device
        )
        tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # the hub's, the file system's, open_clip's own
        raise ValueError(
            f"{option} {name} does not load ({first_line(error)}). Known models and tags: "
            "python -c 'import open_clip; print(open_clip.list_pretrained())'; or give "
            f"{PREFIX}MODEL/FILE with a weights file."
        ) from error
    return network.eval().requires_grad_(False), preprocess, tokenizer


def split_name(name: str, option: str) -> tuple[str, str | None]:
    """open_clip's names of the model and of its weights.

    Raises:
        ValueError: one of them is missing.
    """
    text = name.removeprefix(PREFIX)
    if text.startswith(("hf-hub:", "local-dir:")):
        return text, None
    model, _, pretrained = text.partition("/")
    if not model or not pretrained:
        raise ValueError(f"{option} {name} must name a model and its weights, as {_EXAMPLE}.")
    return model, pretrained


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
