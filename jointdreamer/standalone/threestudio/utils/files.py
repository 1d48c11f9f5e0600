"""Files that appear complete or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """Gives a temporary path beside `path` to write to, then moves it over `path`.

    The temporary name has the same extension, by which writers choose their format. If the block
    raises, nothing is left behind and an older `path` stays as it was; an `OSError` names `path`.

    Example:
        >>> with replacing("outputs/model.obj") as temporary:
        ...     Path(temporary).write_text(text)
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    extension = os.path.splitext(name)[1]
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as workplace:
        temporary = os.path.join(workplace, f"new{extension}")
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            error.filename, error.filename2 = path, None
            raise
