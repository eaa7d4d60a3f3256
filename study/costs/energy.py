"""Modelled energy: operations and memory traffic, priced by a published table.

Source of the prices: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure
1.1.9 (45 nm, 0.9 V). The absolute joules are those of that process, not of a device of today; what the model is for is
the ratio between the parts of a network. Where a meter exists, measured energies take its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from study.costs.flops import NetworkWork, Work, count_work
from study.costs.profile import Costs
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork

PICOJOULE = 1e-12


@dataclass(frozen=True, kw_only=True)
class OperationEnergies:
    """Prices of one number format, in joules."""

    multiply: float
    add: float
    bytes_per_element: int

    @property
    def multiply_accumulate(self) -> float:
        """One product and its addition to the sum."""
        return self.multiply + self.add


HOROWITZ = {
    "fp32": OperationEnergies(multiply=3.7 * PICOJOULE, add=0.9 * PICOJOULE, bytes_per_element=4),
}
ON_CHIP_PER_BYTE = 100 / 8 * PICOJOULE
"""Activations: 64 bits from a 1 MB cache cost 100 pJ."""
DRAM_PER_BYTE = 1300 / 8 * PICOJOULE
"""Weights, once a batch: 64 bits from DRAM cost 1.3 to 2.6 nJ; the lower end is taken."""


def modelled_joules(work: Work, prices: OperationEnergies, *, batch_size: int) -> float:
    """Energy of one part for one image, in joules."""
    operations = work.flops / 2 * prices.multiply_accumulate
    activations = work.activation_elements * prices.bytes_per_element * ON_CHIP_PER_BYTE
    weights = work.weight_elements * prices.bytes_per_element * DRAM_PER_BYTE / batch_size
    return operations + activations + weights


def modelled_costs(network: MultiExitNetwork, *, precision: str = "fp32", batch_size: int = 1) -> Costs:
    """FLOPs counted and energy modelled, for a network at a precision and batch size."""
    work: NetworkWork = count_work(network)
    if precision not in HOROWITZ:
        raise UserError(f"no energy model for precision {precision!r}: use one of {', '.join(HOROWITZ)}")
    prices = HOROWITZ[precision]
    step = work.engine_step
    return Costs(
        segment_flops=work.segment_flops,
        head_flops=work.head_flops,
        engine_step_flops=step.flops,
        segment_energy=np.array([modelled_joules(part, prices, batch_size=batch_size) for part in work.segments]),
        head_energy=np.array([modelled_joules(part, prices, batch_size=batch_size) for part in work.heads]),
        # The engine only adds, and its few numbers are on the chip.
        engine_step_energy=step.flops * prices.add
        + step.activation_elements * prices.bytes_per_element * ON_CHIP_PER_BYTE,
        energy_source=f"modelled:horowitz-2014-45nm-{precision}-batch{batch_size}",
    )
