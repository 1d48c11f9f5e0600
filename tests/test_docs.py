"""What README and docs print works as printed."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import threestudio
from PIL import Image

from jointdreamer import cli
from jointdreamer.host import launcher

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = ("RUN", "PATH", "FOLDER", "...", "outputs/", "coco153.json", ".ckpt", ".pt", "$PROMPT")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """Page and words of every command in a block without a language, continued lines joined."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    try:
                        words = shlex.split(part, comments=True)
                    except ValueError:
                        continue  # no shell
                    words = [w for w in words if not re.fullmatch(r"[A-Z_]+=.*", w)] or [""]
                    if words[0] in ("jointdreamer", "python", "make"):
                        found.append((page.name, words))
    return found


COMMANDS = commands()
README = [words for page, words in COMMANDS if page == "README.md"]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: " ".join(value))
def test_a_printed_command_is_understood(page, words, monkeypatch):
    """Its program, options and files exist; what stands for something of the user's may not."""
    monkeypatch.chdir(ROOT)
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if program == "jointdreamer":
        cli.parse_arguments(arguments)
    elif arguments[0] == "launch.py":
        for name in arguments[arguments.index("--config") + 1 :][:1] if "--config" in words else []:
            assert (ROOT / name).is_file() or any(place in name for place in PLACES), name
    else:
        name = arguments[0].removeprefix("benchmarks/")
        if arguments[0] == "-m":
            name = arguments[1].replace(".", "/").removeprefix("benchmarks/")
        if not any(word.startswith("benchmarks") for word in arguments[:2]):
            return  # -c, or a module of Python's own
        file = next(
            path
            for path in (
                ROOT / "benchmarks" / name,
                ROOT / "benchmarks" / f"{name}.py",
                ROOT / "benchmarks" / name / "__main__.py",
            )
            if path.is_file()
        )
        options = [word for word in arguments[1:] if word.startswith("--")]
        source = "".join(path.read_text() for path in file.parent.glob("*.py"))
        assert all(f'"{option}"' in source for option in options), options
    for word in arguments:
        if re.match(r"(configs|benchmarks|load/tiny|load/prompts)/", word):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize(
    ("page", "snippet"),
    [(page.name, snippet) for page in PAGES for snippet in blocks(page, "python")],
    ids=lambda value: value.splitlines()[0],
)
def test_a_printed_snippet_runs(page, snippet, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for index in range(12):  # what the meter's snippet looks at
        file = tmp_path / "outputs" / "demo" / "a_blue_cat" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "white").save(file)
    file = tmp_path / "snippet.py"
    file.write_text(snippet.replace("make_pictures(1000,", "make_pictures(4,"))
    registered = dict(threestudio.__modules__)
    try:
        runpy.run_path(str(file))
    finally:
        threestudio.__modules__.clear()
        threestudio.__modules__.update(registered)


@pytest.mark.slow
def test_the_readmes_commands_run(tmp_path, monkeypatch, capsys):
    """In the order in which they are printed, with few steps and pixels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small = ["trainer.max_steps=2", "trainer.limit_val_batches=0", "data.n_test_views=9"]
    small += ["data.eval_width=16", "data.eval_height=16", "trainer.log_every_n_steps=1"]
    runs = []
    for words in README:
        if words[1] != "launch.py" or (runs and "--config" in words):
            continue  # the second run is threestudio's
        arguments = [
            word.replace("outputs/tiny-jointdreamer/RUN", str(*runs[:1])) for word in words[2:]
        ]
        arguments = [find_config(word) for word in arguments]
        more = small if not any(word.startswith("resume=") for word in words) else []
        runs.append(launcher.run([*arguments, *more])["trial_dir"])
    assert len(runs) == 4 and len(set(runs)) == 1
    run = Path(runs[0])
    assert list(run.glob("save/*.mp4")) and list(run.rglob("*.obj")) + list(run.rglob("*.glb"))
    for words in (
        ["doctor", "configs/tiny/jointdreamer.yaml"],
        ["download", "configs/tiny/jointdreamer.yaml"],
        ["sweep", "configs/sweeps/demo8.yaml", "--jobs", "2", "--dry-run"],
        ["evaluate", str(run), "--out", "report"],
        ["janus", str(run)],
        ["curves", str(run)],
        ["compare", str(run), "--out", "sheet.png"],
    ):
        assert cli.main(words) == 0, capsys.readouterr()
    assert Path("report/report.html").is_file() and Path("sheet.png").is_file()


def find_config(word: str) -> str:
    return str(ROOT / word) if word.startswith("configs/") else word


def test_help_and_mistakes_answer_without_torch():
    """Nothing heavy is imported for them."""
    code = "import sys; from jointdreamer.cli import parse_arguments\ntry: parse_arguments({})\n"
    code += (
        "except SystemExit: pass\nassert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    for arguments in (["--help"], ["sweep", "--help"], ["demo", "--stray"], ["janus"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
