"""`jointdreamer view`: a finished or interrupted run in the browser, from any side."""

import argparse
import os
from contextlib import closing

from .host.options import choose_gpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("asset", metavar="RUN", help="a run's folder or one of its checkpoints")
    parser.add_argument("--gpu", help="which GPU, if there is one; default: 0")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    parser.set_defaults(run=view)


def view(args: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        FileNotFoundError, ValueError: there is no such run, or it cannot be used here.
    """
    from .host.checkpoints import find_checkpoint, read_checkpoint, telling_what_does_not_fit
    from .host.config_check import check_config
    from .host.resume import run_config, run_folder

    path = find_checkpoint(args.asset)
    if not (cfg := run_config(path)):
        raise ValueError(f"{path} lies in no run's folder, whose config is needed: move it back.")
    choose_gpus(args.gpu, cfg.trainer)
    cfg, ckpt = check_config(cfg), read_checkpoint(path)
    import threestudio
    from threestudio.utils.misc import get_device

    from .viewer.live import POLL, LiveView, open_page

    step = (ckpt["epoch"], ckpt["global_step"])
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=True)
    system.set_resume_status(*step)
    with telling_what_does_not_fit(path):
        system.load_state_dict(ckpt["state_dict"])
    system.to(get_device()).eval().do_update_step(*step)
    with closing(open_page(args.port, cfg, trains=False)) as page:
        live = LiveView(page, run_folder(path))
        while True:
            live.serve(system, f"Step {step[1]} · `{os.path.basename(path)}`")
            page.requests.wait(POLL)
