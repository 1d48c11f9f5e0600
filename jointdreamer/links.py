"""Links in a folder that is somebody else's: made all or none, recorded, and taken back."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECORD = ".jointdreamer-install.json"
LAYOUT = 1  # of the record


@dataclass
class Record:
    """What was done to a folder.

    Attributes:
        links: what each link points to, by its path in the folder.
        folders: those that were made to put links in, the outer ones first.
    """

    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """What there is to do; each list holds paths in the folder.

    Attributes:
        make: links that are not there; mend: our own that point elsewhere (a clone that moved).
        drop: our own that nothing is wanted of any more.
        hand_made: links to the right place that are the user's.
    """

    make: list[str] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    hand_made: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.make or self.mend or self.drop)


@dataclass
class TakenBack:
    """Links that are removed, were gone before, or stay because they are not ours any more."""

    removed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def read_record(folder: Path) -> Record | None:
    """The record in `folder`, or None if there is none.

    Raises:
        ValueError: if it cannot be understood.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["layout"] == LAYOUT:
            return Record(dict(content["links"]), list(content["folders"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path} is damaged or of another version of this extension: undo by hand what it lists, "
        "then remove it."
    )


def make_plan(folder: Path, wanted: Mapping[str, Path], record: Record | None) -> Plan:
    """Compares what is wanted (what links shall point to, by their path) with what is there.

    Raises:
        ValueError: something is where a link shall be and is not ours; all such are named.
    """
    ours = {} if record is None else record.links
    plan, in_the_way = Plan(), []
    for path, target in wanted.items():
        link = folder / path
        blocked = next(_blocked(folder, path), None)
        if blocked is not None:
            in_the_way.append(blocked)
        elif not os.path.lexists(link):
            plan.make.append(path)
        elif link.is_symlink() and link.resolve() == target.resolve():
            if path not in ours:
                plan.hand_made.append(path)
        elif path in ours and _points_to(link, ours[path]):
            plan.mend.append(path)
        else:
            in_the_way.append(path)
    if in_the_way:
        raise ValueError(
            f"{folder} already has {', '.join(dict.fromkeys(in_the_way))}, which the link would "
            "replace: move it away or rename it. Nothing was changed."
        )
    unwanted = {path: target for path, target in ours.items() if path not in wanted}
    plan.drop = [path for path, target in unwanted.items() if _points_to(folder / path, target)]
    return plan


def _blocked(folder: Path, path: str) -> Iterator[str]:
    """Parents of `path` that are there and are no folders."""
    for parent in reversed(Path(path).parents[:-1]):
        if os.path.lexists(folder / parent) and not (folder / parent).is_dir():
            yield parent.as_posix()


def carry_out(folder: Path, plan: Plan, wanted: Mapping[str, Path], record: Record | None) -> None:
    """Does what the plan says; after an error everything is as it was.

    The record is written before the links are: after a crash it lists all that may be there.

    Raises:
        OSError: if a link or the record cannot be made.
    """
    before = record or Record()
    after = Record(dict(before.links), list(before.folders))
    after.links |= {path: str(wanted[path]) for path in [*plan.make, *plan.mend]}
    after.links = {p: t for p, t in after.links.items() if p in wanted}
    after.folders += _missing_folders(folder, plan.make)
    _write_record(folder, after)
    try:
        with _undone_on_error() as undo:
            for name in after.folders:
                if not (folder / name).is_dir():
                    (folder / name).mkdir()
                    undo.append((folder / name).rmdir)
            for path in plan.make:
                os.symlink(wanted[path], folder / path, wanted[path].is_dir())
                undo.append((folder / path).unlink)
            for path in plan.mend:
                undo.append(_repointed(folder / path, str(wanted[path])))
            for path in plan.drop:
                target = os.readlink(folder / path)
                (folder / path).unlink()
                undo.append(lambda path=path, target=target: os.symlink(target, folder / path))
    except BaseException:
        if record is None:
            (folder / RECORD).unlink()
        else:
            _write_record(folder, record)
        raise


def take_back(folder: Path, record: Record) -> TakenBack:
    """Removes the links that are as they were made, the folders made for them, and the record."""
    result = TakenBack()
    for path, target in record.links.items():
        link = folder / path
        if not os.path.lexists(link):
            result.gone.append(path)
        elif _points_to(link, target):
            link.unlink()
            result.removed.append(path)
        else:
            result.replaced.append(path)
    for name in reversed(record.folders):
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()
    (folder / RECORD).unlink()
    return result


@contextmanager
def _undone_on_error() -> Iterator[list]:
    """Functions that are added to the list are called in reverse if the block fails."""
    undo: list = []
    try:
        yield undo
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _repointed(link: Path, target: str):
    """Lets a link point elsewhere; returns what puts it back."""
    old = os.readlink(link)
    _replace_link(link, target)
    return lambda: _replace_link(link, old)


def _replace_link(link: Path, target: str) -> None:
    beside = link.with_name(f".{link.name}.new-{os.getpid()}")
    try:
        os.symlink(target, beside, os.path.isdir(target))
        os.replace(beside, link)
    finally:
        beside.unlink(missing_ok=True)


def _points_to(link: Path, target: str) -> bool:
    """Whether it is a link with this very text, wherever that leads by now."""
    if not link.is_symlink():
        return False
    return os.readlink(link).removeprefix("\\\\?\\") == target  # a prefix that Windows adds


def _missing_folders(folder: Path, paths: list[str]) -> list[str]:
    missing: dict[str, None] = {}
    for path in paths:
        for parent in reversed(Path(path).parents[:-1]):
            if not (folder / parent).is_dir():
                missing[parent.as_posix()] = None
    return list(missing)


def _write_record(folder: Path, record: Record) -> None:
    beside = folder / f"{RECORD}.new-{os.getpid()}"
    content = {"about": "made by `jointdreamer install`, undone by its --uninstall"}
    content |= {"layout": LAYOUT, **asdict(record)}
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, folder / RECORD)
    finally:
        beside.unlink(missing_ok=True)
