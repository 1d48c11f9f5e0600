"""A weighted sum of energies."""

from dataclasses import dataclass, field
from typing import Annotated

import threestudio
from jaxtyping import Float
from torch import Tensor

from ..priors.latent_prior import LatentPrior
from ..step_schedule import Scheduled, StepSchedule
from .base import Energy, Views
from .find import find_energy


@dataclass
class Term:
    energy_type: str
    energy: dict = field(default_factory=dict)
    energy_weight: Scheduled = 1.0


@threestudio.register("jsd-sum-energy")
class SumEnergy(Energy):
    """C = Σ_k λ_k C_k. A term whose weight is 0 at a step is not evaluated in it.

    A term is written with the keys that jsd-guidance has for its one energy:

        energy_type: jsd-sum-energy
        energy:
          energies:
            coherence:                    # names are free
              energy_type: jsd-multiview-energy
              energy_weight: 0.3125       # or a schedule; 1 by default
              energy: {pretrained_model_name_or_path: load/tiny/mvdream}
            mine: {energy_type: my-energy, energy_weight: [600, 0., 1., 601]}
    """

    @dataclass
    class Config(Energy.Config):
        energies: dict[str, Annotated[dict, Term]] = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        if not self.cfg.energies:
            raise ValueError(
                "energy.energies={} names no term: give at least one, "
                "name: {energy_type: ..., energy_weight: ..., energy: {...}}."
            )
        self.terms: dict[str, Energy] = {}
        self.weight_schedules: dict[str, StepSchedule] = {}
        for name, term in self.cfg.energies.items():
            key = f"energy.energies.{name}"
            weight = term.get("energy_weight", 1.0)
            self.weight_schedules[name] = StepSchedule(weight, f"{key}.energy_weight")
            energy_class = find_energy(term.energy_type, f"{key}.energy_type")
            self.terms[name] = energy_class(term.get("energy", {}))
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.weights = {
            name: schedule(epoch, global_step) for name, schedule in self.weight_schedules.items()
        }
        for term in self.terms.values():
            term.do_update_step(epoch, global_step, on_load_weights=on_load_weights)

    @property
    def takes_image(self) -> bool:
        return any(term.takes_image for term in self.terms.values())

    @property
    def priors(self) -> list[LatentPrior]:
        return [prior for term in self.terms.values() for prior in term.priors]

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        energy = 0.0 * views.denoised.sum(dim=(1, 2, 3, 4))
        for name, term in self.terms.items():
            if self.weights[name] != 0:
                energy = energy + self.weights[name] * term(views)
        return energy

    def draw(self, views: Views) -> Float[Tensor, "N V H W 3"] | None:
        """What the first term in use would like that can tell."""
        wanted = (term.draw(views) for n, term in self.terms.items() if self.weights[n])
        return next((pictures for pictures in wanted if pictures is not None), None)
