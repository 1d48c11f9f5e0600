"""The prompt processor: embeddings as the guidance asks for them, Perp-Neg's among them."""

import threestudio
import torch

from benchmarks.hosts.session import PRIOR, PROMPT, Cases, Rows, Session

ELEVATION = [10.0, 10.0, 10.0, 80.0, 0.0, 30.0]
AZIMUTH = [0.0, 100.0, 180.0, 20.0, -60.0, 250.0]


def cases(session: Session) -> Cases:
    return {"jointdreamer-prompt-processor": _processor(session)}


def _processor(session: Session) -> Rows:
    config = {
        "pretrained_model_name_or_path": str(PRIOR),
        "prompt": PROMPT,
        "negative_prompt": "a red bear",
        "use_perp_neg": True,
        "spawn": False,
        "cache_dir": str(session.folder / "cache"),
    }
    processor = threestudio.find("jointdreamer-prompt-processor")(config)
    processor.do_update_step(0, 10)
    utils = processor()
    where = [torch.tensor(x, device=session.device) for x in (ELEVATION, AZIMUTH)]
    where.append(torch.ones(len(ELEVATION), device=session.device))
    for view_dependent in (False, True):
        picked = utils.get_text_embeddings(*where, view_dependent)
        yield f"embeddings, view-dependent {view_dependent}", picked
    embeddings, weights = utils.get_text_embeddings_perp_neg(*where, True)
    yield "embeddings of Perp-Neg", embeddings
    yield "weights of Perp-Neg", weights
