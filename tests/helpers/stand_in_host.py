"""A host that trains nothing, in no time: checkpoints, failures and deaths as overrides ask for.

A program for sweeps in place of jointdreamer.host.launcher, which imports the standard library
alone. Every other step leaves `ckpts/last.ckpt`; `sessions.jsonl` has a line for each process.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    given = {key: json.loads(value) for key, _, value in (a.partition("=") for a in argv[3:])}
    folder = Path(given["exp_root_dir"], given["name"], given["tag"])
    checkpoint = folder / "ckpts" / "last.ckpt"
    checkpoint.parent.mkdir(exist_ok=True)
    first = (
        json.loads(Path(given["resume"], "ckpts/last.ckpt").read_text()) if "resume" in given else 0
    )
    session = {
        "pid": os.getpid(),
        "first": first,
        "begin": time.time(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ["OMP_NUM_THREADS"],
        "argv": argv,
    }
    with open(folder / "sessions.jsonl", "a") as file:
        file.write(json.dumps(session) + "\n")
    if given.get("data.fail"):
        print(f"error: {given['data.fail']}")
        return 2
    for step in range(first, given["trainer.max_steps"]):
        if step == given.get("data.kill_at") and first == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == given.get("data.crash_at"):
            raise RuntimeError("CUDA out of memory")
        try:
            time.sleep(given.get("data.step_seconds", 0))
        except KeyboardInterrupt:
            if not given.get("data.deaf"):
                return 1  # as Lightning's
        metrics = {"state": "running", "step": step + 1, "steps_per_second": 9.5, "device": "cpu"}
        metrics |= {"peak_host_gib": 0.5, "peak_gpu_gib": 3.0}
        write(folder / "metrics.json", metrics)
        if step % 2 == 1:
            write(checkpoint, step + 1)
    write(folder / "metrics.json", metrics | {"state": "done"})
    return 0


def write(path: Path, content: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
