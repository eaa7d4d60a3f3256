"""Modelled costs: costs of a network on a device that a table describes.

A table of *operations* has energies of multiplications, additions and memory traffic, and no time. A table of *levels*
describes a device with frequency levels: time follows from a roofline, and energy is busy power times time. The values
are those of a model, never measurements; their source ``modelled:<name>`` says so. :mod:`study.costs.model.tables` says
how to add a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from search_spaces.settings import DEFAULT_DEVICE
from study.arrays import Floats
from study.costs.costs import Costs
from study.costs.flops import NetworkWork, Work, count_work
from study.costs.model.levels import LevelCosts
from study.costs.model.tables import LevelTable, OperationTable, read_table
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import FORMATS, FP32, NumberFormat, PartFormats
from study.networks.quantization import check_precision
from study.storage.home import user_path

PICO, NANO, MICRO, MEGA, GIGA = 1e-12, 1e-9, 1e-6, 1e6, 1e9
BUNDLED = Path(__file__).parents[1] / "devices"
PartPrice: TypeAlias = Callable[[Work, NumberFormat], float]
"""Cost of one part for one image, from the work of the part and its number format."""


@dataclass(frozen=True)
class OperationDevice:
    """A device with energies of operations and memory traffic, without time and frequency."""

    table: OperationTable

    def costs(self, network: MultiExitNetwork | NetworkWork, *, precision: str, batch_size: int) -> Costs:
        """FLOPs, bit operations and energy per image.

        Raises:
            UserError: the device lacks the precision, or the batch is empty.
        """
        formats = part_formats(precision, self.table)
        work = _counted(network, batch_size)
        return Costs(
            **_operations(work, formats),
            **_each_part(
                "energy",
                work,
                formats,
                partial(self.joules, batch_size=batch_size),
                self.engine_joules(work.engine_step),
            ),
            energy_source=f"modelled:{self.table.name}",
            device=self.table.name,
            batch_size=batch_size,
        )

    def joules(self, part: Work, number_format: NumberFormat, *, batch_size: int) -> float:
        """Energy of one part for one image.

        Each multiply-accumulate is one product and one addition. Each element of the part's input and output moves once
        on the chip. Each weight is read from DRAM once for a batch.
        """
        prices = self.table.formats[number_format.name]
        operations = part.flops / 2 * (prices.multiply_picojoules.value + prices.add_picojoules.value)
        activations = part.activation_elements * number_format.map_bytes * self.table.on_chip_picojoules_per_byte.value
        weights = part.weight_elements * number_format.weight_bytes * self.table.dram_picojoules_per_byte.value
        return (operations + activations + weights / batch_size) * PICO

    def engine_joules(self, step: Work) -> float:
        """Energy of one engine step: additions in fp32, of numbers that are on the chip."""
        additions = step.flops * self.table.formats[FP32.name].add_picojoules.value
        moved = step.activation_elements * FP32.map_bytes * self.table.on_chip_picojoules_per_byte.value
        return (additions + moved) * PICO


@dataclass(frozen=True)
class LevelDevice:
    """A device with time and energy at each of L frequency levels."""

    table: LevelTable

    @cached_property
    def megahertz(self) -> Floats:
        """``[L]``, rising."""
        return np.array(self.table.levels.megahertz.values)

    @cached_property
    def busy_watts(self) -> Floats:
        """``[L]``: from the table, or static power + effective capacitance x V^2 x f (dynamic power of CMOS)."""
        watts, volts = self.table.levels.watts, self.table.levels.volts
        if watts is not None:
            return np.array(watts.values)
        static, capacitance = self.table.static_watts, self.table.effective_capacitance_nanofarad
        assert volts is not None and static is not None and capacitance is not None, "the table was checked"
        return static.value + capacitance.value * NANO * np.array(volts.values) ** 2 * self.megahertz * MEGA

    def costs(self, network: MultiExitNetwork | NetworkWork, *, precision: str, batch_size: int) -> Costs:
        """FLOPs, bit operations, seconds and energy per image at the highest level.

        Raises:
            UserError: the device lacks the precision, or the batch is empty.
        """
        return self.level_costs(network, precision=precision, batch_size=batch_size).costs[-1]

    def level_costs(self, network: MultiExitNetwork | NetworkWork, *, precision: str, batch_size: int) -> LevelCosts:
        """Costs at every level, idle power and switching time: the input of a simulation of frequency scaling.

        Raises:
            UserError: the device lacks the precision, or the batch is empty.
        """
        formats = part_formats(precision, self.table)
        work = _counted(network, batch_size)
        return LevelCosts(
            megahertz=self.megahertz,
            costs=tuple(self._costs_at(level, work, formats, batch_size) for level in range(len(self.megahertz))),
            idle_watts=self.table.idle_watts.value,
            switch_seconds=self.table.switch_microseconds.value * MICRO,
        )

    def seconds(self, part: Work, number_format: NumberFormat, *, level: int, batch_size: int) -> float:
        """Time of one part for one image of a full batch, by the roofline model and a launch for each part.

        A batch takes max(operations / (operations per cycle x f x utilisation), bytes / bandwidth) + launch. Only the
        first term depends on the frequency f. Bytes are the weights once and the activations of all images.
        """
        launch = self.table.launch_microseconds.value * MICRO / batch_size
        return self._roofline(part, number_format, level=level, batch_size=batch_size) + launch

    def _roofline(self, part: Work, number_format: NumberFormat, *, level: int, batch_size: int) -> float:
        throughput = self.table.formats[number_format.name]
        per_second = throughput.operations_per_cycle.value * self.megahertz[level] * MEGA * throughput.utilisation.value
        weights = part.weight_elements * number_format.weight_bytes
        moved = weights + part.activation_elements * number_format.map_bytes * batch_size
        computing = part.flops * batch_size / per_second
        moving = moved / (self.table.memory_gigabytes_per_second.value * GIGA)
        return float(max(computing, moving)) / batch_size

    def _costs_at(self, level: int, work: NetworkWork, formats: PartFormats, batch_size: int) -> Costs:
        price = partial(self.seconds, level=level, batch_size=batch_size)
        # All engine steps behind a head are one small loop over its logits, without a launch of their own.
        engine_step = self._roofline(work.engine_step, FP32, level=level, batch_size=batch_size)
        seconds = _each_part("seconds", work, formats, price, engine_step)
        energy = {
            name.replace("seconds", "energy"): np.asarray(value) * self.busy_watts[level]
            for name, value in seconds.items()
        }
        source = f"modelled:{self.table.name}"
        return Costs(
            **_operations(work, formats),
            **seconds,
            **energy,
            energy_source=source,
            seconds_source=source,
            device=self.table.name,
            batch_size=batch_size,
        )


Device: TypeAlias = OperationDevice | LevelDevice


def modelled_costs(
    network: MultiExitNetwork, *, precision: str = "fp32", batch_size: int = 1, device: str = DEFAULT_DEVICE
) -> Costs:
    """Count FLOPs and model costs of a network on a device, at a precision and batch size.

    Raises:
        UserError: there is no such device, or the device lacks the precision.
    """
    return load_device(device).costs(network, precision=precision, batch_size=batch_size)


def load_device(name_or_path: str) -> Device:
    """Load a device by the name of a bundled table, or by the path of a YAML file.

    Raises:
        UserError: there is no such table and no such file, or the file holds no device table.
    """
    bundled = name_or_path in device_names()
    path = BUNDLED / f"{name_or_path}.yaml" if bundled else user_path(name_or_path)
    if not (name_or_path and path.exists()):
        known = ", ".join(device_names())
        raise UserError(f"{path}: no such device table, and no bundled device of that name (there are {known})")
    table = read_table(path)
    if not bundled and table.name in device_names() and table != read_table(BUNDLED / f"{table.name}.yaml"):
        # Costs of both devices would have the same source, and a front would mix them.
        raise UserError(f"{path}: name: {table.name} is a bundled device with other numbers; choose another name")
    return OperationDevice(table) if isinstance(table, OperationTable) else LevelDevice(table)


def device_names() -> list[str]:
    """Names of the bundled device tables."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def part_formats(precision: str, table: OperationTable | LevelTable) -> PartFormats:
    """The formats of a precision.

    Raises:
        UserError: the device of the table lacks one of them.
    """
    formats = FORMATS[check_precision(precision, None)]
    for part in (formats.backbone, formats.heads):
        if part.name not in table.formats:
            known = ", ".join(table.formats)
            raise UserError(
                f"device {table.name} has no {part.name}, which precision {precision} needs: it has {known}"
            )
    return formats


def _counted(network: MultiExitNetwork | NetworkWork, batch_size: int) -> NetworkWork:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, but must be at least 1")
    return network if isinstance(network, NetworkWork) else count_work(network)


def _operations(work: NetworkWork, formats: PartFormats) -> dict[str, Any]:
    """The fields of :class:`Costs` that are the same on every device."""
    return {
        **_each_part("flops", work, formats, lambda part, _: part.flops, work.engine_step.flops),
        **_each_part(
            "bitops",
            work,
            formats,
            lambda part, number_format: part.flops / 2 * number_format.bits**2,
            # An addition of two fp32 numbers counts 32 bits: there is no product of bits.
            work.engine_step.flops * FP32.bits,
        ),
    }


def _each_part(
    measure: str, work: NetworkWork, formats: PartFormats, price: PartPrice, engine_step: float
) -> dict[str, Any]:
    """The fields of :class:`Costs` of one measure: segments ``[E+1]``, heads ``[E]``, one engine step."""
    return {
        f"segment_{measure}": np.array([price(part, formats.backbone) for part in work.segments]),
        f"head_{measure}": np.array([price(part, formats.heads) for part in work.heads]),
        f"engine_step_{measure}": engine_step,
    }
