"""A texture for a given mesh, and the live view, in the real threestudio."""

import math
import os

import numpy as np
import torch
import trimesh
from helpers.real_threestudio import CHECKOUT, PROMPT, ROOT, run_launch

WATCHED = """
import sys
from math import radians
from queue import SimpleQueue
from unittest.mock import MagicMock

from jointdreamer.host import selection
selection.ensure_host()
selection.load_extension()
from jointdreamer.host.launcher import run
from jointdreamer.viewer.live import LiveView
from jointdreamer.viewer.rendering import Viewpoint
from jointdreamer.viewer.requests import RenderRequests

page = MagicMock(requests=RenderRequests(), changes=SimpleQueue(), image="render", size=64)
page.configure_mock(paused=False, stopped=False)
page.requests.look(0, Viewpoint((2.75, 0, 0.7), (0, 0, 0), (0, 0, 1), radians(40), 1.0))
page.say = lambda status: status.startswith("Step 3") and page.changes.put(("energy_weight", 0.125))
folder, *argv = sys.argv[1:]
run(argv, [LiveView(page, folder)])
pictures = [call.args[1] for call in page.send.call_args_list]
print("pictures:", len(pictures), {picture.shape for picture in pictures}, pictures[-1].std() > 5)
"""


def arguments(name: str, action: str, *more: str) -> list[str]:
    return [
        *("--config", f"configs/tiny/{name}.yaml", f"--{action}", "trainer.max_steps=8"),
        *(f"system.prompt_processor.prompt={PROMPT}", "trainer.val_check_interval=8"),
        "checkpoint.every_n_train_steps=8",
        *("trainer.log_every_n_steps=1", "data.n_test_views=9", *more),
    ]


def test_a_mesh_is_textured_and_exported_as_it_is(launch):
    trained = launch(arguments("texture", "train"))
    losses = trained.numbers["train/loss_sds"]
    assert len(losses) == 8 and all(map(math.isfinite, losses.values()))
    ckpt = trained.ckpt
    exported = launch(arguments("texture", "export", f"resume={ckpt}"))
    (file,) = exported.save_dir.glob("it8-export/*.glb")
    written = np.unique(trimesh.load_mesh(file, process=False).vertices.astype("f"), axis=0)
    given = torch.load(ckpt, weights_only=True, map_location="cpu")["state_dict"]
    given = given["geometry.vertices"].numpy()[:, [1, 2, 0]]  # y up, front to +z
    assert np.array_equal(written, np.unique(given, axis=0))


def test_a_run_is_looked_at_and_a_number_held(checkout, tmp_path):
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    folder = tmp_path / "outputs" / "seen" / "run"
    named = [f"exp_root_dir={tmp_path}/outputs", "name=seen", "tag=run", "use_timestamp=false"]
    args = [str(folder), *arguments("jointdreamer", "train"), *named]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {CHECKOUT: str(checkout), "PYTHONPATH": path}
    seen = run_launch(args, ROOT, tmp_path / "outputs", str(script), environment)
    assert "{(64, 64, 3)} True" in seen.log.partition("pictures:")[2]
    assert list(seen.numbers["train/energy_weight"].values())[4:] == [0.125] * 4
