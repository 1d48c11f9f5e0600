"""What the authors' own configs (github.com/chanyn/JointDreamer at 8cca276) give at a step."""

START_ENERGY, HALF_BATCH, ANNEALED, START_NEGATIVE = 600, 3000, 3000, 3000
STEPS = (0, 600, 601, 1500, 2999, 3000, 3001)  # on either side of every change


def first_stage(step: int) -> dict[str, float]:
    """By the names under which a run logs them.

    Their energy's weight is 5, on half of the squared distance over the B views of a batch: as a
    weight of the squared distance it is 5 / (2 B).
    """
    part = min(1.0, step / ANNEALED)
    batch = 8 if step < HALF_BATCH else 4
    return {
        "train/guidance_scale": 30.0,
        "train/energy_weight": 5 / (2 * batch) if step > START_ENERGY else 0.0,
        "train/min_step": int(1000 * (0.98 + (0.02 - 0.98) * part)),
        "train/max_step": int(1000 * (0.98 + (0.50 - 0.98) * part)),
        "train_params/lambda_sds": 1.0,
        "train_params/lambda_orient": 10.0 + 990.0 * part,
        "train_params/lambda_sparsity": 0.5,
        "train_params/lambda_opaque": 0.0,
        "train_params/lambda_z_variance": 0.0,
        "lr-AdamW/geometry.encoding": 0.01,
        "lr-AdamW/geometry.density_network": 0.001,
        "lr-AdamW/geometry.feature_network": 0.001,
        "lr-AdamW/background": 0.001,
    }


REFINEMENT = {
    "train/guidance_scale": 50.0,
    "train/energy_weight": 0.0,
    "train/min_step": 50,
    "train/max_step": 500,
    "train_params/lambda_sds": 1.0,
    "train_params/lambda_orient": 0.0,
    "train_params/lambda_sparsity": 0.0,
    "train_params/lambda_opaque": 1.0,
    "train_params/lambda_z_variance": 1.0,
    "lr-AdamW/geometry.encoding": 1e-6,
    "lr-AdamW/geometry.density_network": 1e-6,
    "lr-AdamW/geometry.feature_network": 0.001,
    "lr-AdamW/background": 0.001,
}
MESH = {
    "train/guidance_scale": 70.0,
    "train/energy_weight": 5 / (2 * 8),
    "train/min_step": 20,
    "train/max_step": 500,
    "train_params/lambda_sds": 1.0,
    "train_params/lambda_normal_consistency": 10000.0,
    "train_params/lambda_laplacian_smoothness": 10000.0,
}
