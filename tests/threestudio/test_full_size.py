"""configs/jointdreamer.yaml in the real threestudio, with random weights of the published sizes."""

import math

from helpers.real_threestudio import PROMPT

from benchmarks.hosts.pictures import read_turntable

STEPS = 8


def test_full_size_config_trains_at_both_resolutions(
    full_size_priors, launch, tmp_path, record_property
):
    priors = full_size_priors
    run = launch(
        [
            *("--config", "configs/jointdreamer.yaml", "--train"),
            f"system.prompt_processor.prompt={PROMPT}",
            f"system.prompt_processor.cache_dir={tmp_path / 'cache'}",
            f"system.guidance.pretrained_model_name_or_path={priors / 'stable-diffusion'}",
            f"system.guidance.energy.pretrained_model_name_or_path={priors / 'mvdream'}",
            "system.guidance.energy_weight=[2,0.0,0.3125,3]",  # SDS first, then JSD
            f"data.resolution_milestones=[{STEPS - 2}]",
            "data.n_val_views=1",
            "data.n_test_views=2",
            f"trainer.max_steps={STEPS}",
            f"trainer.val_check_interval={STEPS}",
            "trainer.log_every_n_steps=1",
            f"checkpoint.every_n_train_steps={STEPS}",
        ]
    )
    record_property("seconds with loading and pictures", f"{run.seconds:.0f}")
    losses = run.numbers["train/loss_sds"]
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses.values())
    assert run.ckpt.is_file()
    assert len(read_turntable(run.trial_dir)) == 2
