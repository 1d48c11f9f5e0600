"""A host that trains nothing, in no time: checkpoints, failures and deaths as overrides ask for.

Every other step leaves `ckpts/last.ckpt`; `sessions.jsonl` has a line for each process.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def run(argv):
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
        "prompt": given["system.prompt_processor.prompt"],
        "argv": sys.argv,
    }
    with open(folder / "sessions.jsonl", "a") as file:
        file.write(json.dumps(session) + "\n")
    if given.get("data.fail"):
        raise ValueError(given["data.fail"])

    def train(trainer):
        for step in range(first, given["trainer.max_steps"]):
            if step == given.get("data.kill_at") and first == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if step == given.get("data.crash_at"):
                raise RuntimeError("CUDA out of memory")
            time.sleep(given.get("data.step_seconds", 0))
            trainer.global_step = step + 1
            trainer.call("on_train_batch_end", None, None, step)
            trainer.call("on_validation_start")
            time.sleep(given.get("data.validation_seconds", 0))
            trainer.call("on_validation_end")
            if step % 2 == 1:
                temporary = checkpoint.with_suffix(".tmp")
                temporary.write_text(str(step + 1))
                os.replace(temporary, checkpoint)

    import pytorch_lightning

    trainer = pytorch_lightning.Trainer()
    trainer.global_step = first
    trainer.fit(train)
    return {"trial_dir": str(folder)}
