"""Runs several configs on the same prompts and seeds; contact sheets side by side, times as CSV.

python benchmarks/demo_prompts.py configs/tiny/jointdreamer.yaml configs/tiny/sds.yaml \
    --prompts load/prompts/demo8.json --seeds 0 1 --jobs 16 --out outputs/demo8

A finished run is not run again, an interrupted one starts over, a failed one stops no other.
Seconds are of runs that share the machine with `--jobs` others; they are for the ratio of methods.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.progress import track  # noqa: E402

from standalone.host import ensure_host, load_extension  # noqa: E402

ensure_host()
load_extension()

from threestudio_jointdreamer.evaluation.contact_sheet import (  # noqa: E402
    compare_runs,
    turntable_tiles,
)
from threestudio_jointdreamer.evaluation.runs import Run  # noqa: E402
from threestudio_jointdreamer.systems.pictures import picture_grid, save_picture  # noqa: E402


@dataclass
class Job:
    """One prompt under one config and seed."""

    config: Path
    prompt: str
    index: int
    seed: int
    out: Path

    @property
    def name(self) -> str:
        return f"{self.config.stem}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.out / self.name / f"p{self.index:02d}"

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    def start(self, gpu: str | None, overrides: list[str]) -> subprocess.Popen:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        command = [
            *(sys.executable, str(ROOT / "launch.py"), "--config", str(self.config), "--train"),
            *(f"exp_root_dir={self.out}", f"name={self.name}", f"tag=p{self.index:02d}"),
            *("use_timestamp=false", f"seed={self.seed}"),
            f"system.prompt_processor.prompt={json.dumps(self.prompt)}",
            *overrides,
        ]
        with open(self.folder / "log.txt", "w") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def finish(self, seconds: float) -> None:
        record = {
            "config": self.config.stem,
            "seed": self.seed,
            "prompt": self.prompt,
            "seconds": round(seconds, 1),
        }
        temporary = self.record.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        os.replace(temporary, self.record)


def run_all(jobs: list[Job], at_once: int, gpus: list[str], overrides: list[str]) -> list[Job]:
    """Runs what is not done yet; returns the jobs that failed."""
    waiting = [job for job in jobs if not job.record.exists()]
    total, running, failed = len(waiting), {}, []
    slots = list(range(at_once))

    def done():
        while waiting or running:
            while waiting and slots:
                slot, job = slots.pop(), waiting.pop(0)
                gpu = gpus[slot % len(gpus)] if gpus else None
                running[slot] = (job, job.start(gpu, overrides), time.monotonic())
            for slot, (job, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                slots.append(slot)
                if process.returncode == 0:
                    job.finish(time.monotonic() - started)
                else:
                    failed.append(job)
                yield job
            time.sleep(0.5)

    try:
        for _ in track(done(), "runs", total=total):
            pass
    finally:
        for _, process, _ in running.values():
            process.terminate()
    return failed


def side_by_side(jobs: list[Job], path: Path) -> str:
    """A row per prompt, four azimuths per config; of prompts that every config has finished."""
    configs = list(dict.fromkeys(job.config.stem for job in jobs))
    by_prompt: dict[str, dict[str, Job]] = {}
    for job in jobs:
        by_prompt.setdefault(job.prompt, {})[job.config.stem] = job
    shared = {prompt: found for prompt, found in by_prompt.items() if len(found) == len(configs)}
    rows = [
        [tile for config in configs for tile in turntable_tiles(Run(found[config].folder))[::2]]
        for found in shared.values()
    ]
    columns = [f"{config} {azimuth}°" for config in configs for azimuth in (0, 90, 180, 270)]
    return save_picture(path, picture_grid(rows, row_labels=list(shared), column_labels=columns))


def visible_gpus() -> list[str]:
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--prompts", type=Path, default=ROOT / "load/prompts/demo8.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo8"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE")
    args = parser.parse_args()

    prompts = json.loads(args.prompts.read_text())
    jobs = [
        Job(config, prompt, index, seed, args.out)
        for seed in args.seeds
        for config in args.configs
        for index, prompt in enumerate(prompts)
    ]
    failed = run_all(jobs, args.jobs, visible_gpus(), args.overrides)
    finished = [job for job in jobs if job.record.exists()]
    if finished:
        with open(args.out / "runs.csv", "w", newline="") as file:
            rows = [json.loads(job.record.read_text()) for job in finished]
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    for name in dict.fromkeys(job.name for job in finished):
        chosen = [job for job in finished if job.name == name]
        labels = [job.prompt for job in chosen]
        print(compare_runs([Run(j.folder) for j in chosen], args.out / f"{name}.png", labels))
    for seed in args.seeds:
        chosen = [job for job in finished if job.seed == seed]
        if len({job.config for job in chosen}) > 1:
            print(side_by_side(chosen, args.out / f"side-by-side-seed{seed}.png"))
    for job in failed:
        print(f"failed: {job.name} {job.prompt!r}, see {job.folder / 'log.txt'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
