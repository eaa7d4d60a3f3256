"""Modelled costs: costs of a network on a device that a YAML file describes, the device table.

To add a device, write a YAML file; no code changes. The bundled tables in ``study/costs/devices/`` are examples. A
table of ``kind: operations`` has energies of multiplications, additions and memory traffic, and no time. A table of
``kind: levels`` has frequency levels with power, peak rates and bandwidth: time follows from a roofline, and energy is
busy power times time. Name the path of the file wherever a device is named (``operating_points.costs`` of a study file,
``--costs``, :func:`load_device`). A bundled table is known by the bare name, without ``.yaml``; the file must have the
name that it gives in ``name``.

Every number has a ``source``, which begins with ``published:``, ``measured:`` or ``assumption:``. A table is checked
before any cost is computed. ``docs/devices.md`` describes every key.

The costs are those of a model, never measurements; their source ``modelled:<name>`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from search_spaces.settings import DEFAULT_DEVICE
from search_spaces.strict_yaml import YamlError, read_yaml
from search_spaces.words import short, validation_problem
from study.arrays import Floats
from study.costs.costs import Costs
from study.costs.flops import NetworkWork, Work, count_work
from study.costs.model.dvfs import LevelCosts
from study.costs.model.tables import Levels, OperationPrices, Overhead, Quantity, Section, Source, Throughput
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import BF16, FORMATS, FP32, INT8, NumberFormat, PartFormats
from study.networks.quantization import check_precision
from study.storage.home import user_path

PICO, NANO, MICRO, MEGA, GIGA = 1e-12, 1e-9, 1e-6, 1e6, 1e9
BUNDLED = Path(__file__).parents[1] / "devices"
PartPrice: TypeAlias = Callable[[Work, NumberFormat], float]
"""Cost of one part for one image, from the work of the part and its number format."""


class _Device(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    device: Source
    """Description of the device in words."""

    @field_validator("formats", check_fields=False)
    @classmethod
    def _known_formats(cls, formats: dict[str, Section]) -> dict[str, Section]:
        known = [FP32.name, BF16.name, INT8.name]
        unknown = [name for name in formats if name not in known]
        if unknown:
            raise ValueError(f"{short(unknown[0])} is unknown: use {', '.join(known)}")
        if FP32.name not in formats:
            raise ValueError("fp32 is missing, in which heads and the prediction engine compute")
        return formats

    @property
    def source(self) -> str:
        """The ``energy_source`` and ``seconds_source`` of costs on this device."""
        return f"modelled:{self.name}"


class OperationDevice(_Device):
    """A device with energies of operations and memory traffic, without time and frequency."""

    kind: Literal["operations"]
    on_chip_picojoules_per_byte: Quantity
    dram_picojoules_per_byte: Quantity
    formats: dict[str, OperationPrices]

    def costs(self, network: MultiExitNetwork | NetworkWork, *, precision: str, batch_size: int) -> Costs:
        """FLOPs, bit operations and energy per image; a UserError for a precision that the device lacks."""
        formats = part_formats(precision, self)
        work = _counted(network, batch_size)
        price = partial(self.joules, batch_size=batch_size)
        return Costs(
            **_operations(work, formats),
            **_each_part("energy", work, formats, price, self.engine_joules(work.engine_step)),
            energy_source=self.source,
            device=self.name,
            batch_size=batch_size,
        )

    def joules(self, part: Work, number_format: NumberFormat, *, batch_size: int) -> float:
        """Energy of one part for one image.

        Each multiply-accumulate is one product and one addition. Each element of the part's input and output moves once
        on the chip. Each weight is read from DRAM once for a batch.
        """
        prices = self.formats[number_format.name]
        operations = part.flops / 2 * (prices.multiply_picojoules.value + prices.add_picojoules.value)
        activations = part.activation_elements * number_format.map_bytes * self.on_chip_picojoules_per_byte.value
        weights = part.weight_elements * number_format.weight_bytes * self.dram_picojoules_per_byte.value
        return (operations + activations + weights / batch_size) * PICO

    def engine_joules(self, step: Work) -> float:
        """Energy of one engine step: additions in fp32, of numbers that are on the chip."""
        additions = step.flops * self.formats[FP32.name].add_picojoules.value
        moved = step.activation_elements * FP32.map_bytes * self.on_chip_picojoules_per_byte.value
        return (additions + moved) * PICO


class LevelDevice(_Device):
    """A device with time and energy at each of L frequency levels."""

    kind: Literal["levels"]
    idle_watts: Quantity
    switch_microseconds: Overhead
    memory_gigabytes_per_second: Quantity
    launch_microseconds: Overhead
    formats: dict[str, Throughput]
    levels: Levels
    static_watts: Overhead | None = None
    effective_capacitance_nanofarad: Quantity | None = None

    @model_validator(mode="after")
    def _complete(self) -> LevelDevice:
        given = [part is not None for part in (self.static_watts, self.effective_capacitance_nanofarad)]
        if any(given) != all(given) or all(given) != (self.levels.volts is not None):
            raise ValueError(
                "static_watts and effective_capacitance_nanofarad belong to levels with volts, and to those"
            )
        return self

    @cached_property
    def megahertz(self) -> Floats:
        """``[L]``, rising."""
        return np.array(self.levels.megahertz.values)

    @cached_property
    def busy_watts(self) -> Floats:
        """``[L]``: from the table, or static power + effective capacitance x V^2 x f (dynamic power of CMOS)."""
        watts, volts = self.levels.watts, self.levels.volts
        if watts is not None:
            return np.array(watts.values)
        static, capacitance = self.static_watts, self.effective_capacitance_nanofarad
        assert volts is not None and static is not None and capacitance is not None, "the table was checked"
        return static.value + capacitance.value * NANO * np.array(volts.values) ** 2 * self.megahertz * MEGA

    def costs(self, network: MultiExitNetwork | NetworkWork, *, precision: str, batch_size: int) -> Costs:
        """FLOPs, bit operations, seconds and energy per image at the highest level, as :meth:`level_costs`."""
        return self.level_costs(network, precision=precision, batch_size=batch_size).costs[-1]

    def level_costs(self, network: MultiExitNetwork | NetworkWork, *, precision: str, batch_size: int) -> LevelCosts:
        """Costs at every level, idle power and switching time: the input of a simulation of frequency scaling.

        Raises:
            UserError: the device lacks the precision, or the batch is empty.
        """
        formats = part_formats(precision, self)
        work = _counted(network, batch_size)
        return LevelCosts(
            megahertz=self.megahertz,
            costs=tuple(self._costs_at(level, work, formats, batch_size) for level in range(len(self.megahertz))),
            idle_watts=self.idle_watts.value,
            switch_seconds=self.switch_microseconds.value * MICRO,
        )

    def seconds(self, part: Work, number_format: NumberFormat, *, level: int, batch_size: int) -> float:
        """Time of one part for one image of a full batch, by the roofline model and a launch for each part.

        A batch takes max(operations / (operations per cycle x f x utilisation), bytes / bandwidth) + launch. Only the
        first term depends on the frequency f. Bytes are the weights once and the activations of all images.
        """
        launch = self.launch_microseconds.value * MICRO / batch_size
        return self._roofline(part, number_format, level=level, batch_size=batch_size) + launch

    def _roofline(self, part: Work, number_format: NumberFormat, *, level: int, batch_size: int) -> float:
        throughput = self.formats[number_format.name]
        per_second = throughput.operations_per_cycle.value * self.megahertz[level] * MEGA * throughput.utilisation.value
        weights = part.weight_elements * number_format.weight_bytes
        moved = weights + part.activation_elements * number_format.map_bytes * batch_size
        computing = part.flops * batch_size / per_second
        moving = moved / (self.memory_gigabytes_per_second.value * GIGA)
        return float(max(computing, moving)) / batch_size

    def _costs_at(self, level: int, work: NetworkWork, formats: PartFormats, batch_size: int) -> Costs:
        price = partial(self.seconds, level=level, batch_size=batch_size)
        # All engine steps behind a head are one small loop over its logits, without a launch of their own.
        engine_step = self._roofline(work.engine_step, FP32, level=level, batch_size=batch_size)
        seconds = _each_part("seconds", work, formats, price, engine_step)
        watts = self.busy_watts[level]
        return Costs(
            **_operations(work, formats),
            **seconds,
            **{name.replace("seconds", "energy"): value * watts for name, value in seconds.items()},
            energy_source=self.source,
            seconds_source=self.source,
            device=self.name,
            batch_size=batch_size,
        )


Device: TypeAlias = OperationDevice | LevelDevice
_KINDS: dict[str, type[Device]] = {"operations": OperationDevice, "levels": LevelDevice}


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
    device = _read(path)
    if not bundled and device.name in device_names() and device != _read(BUNDLED / f"{device.name}.yaml"):
        # Costs of both devices would have the same source, and a front would mix them.
        raise UserError(f"{path}: name: {device.name} is a bundled device with other numbers; choose another name")
    return device


def device_names() -> list[str]:
    """Names of the bundled device tables."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def _read(path: Path) -> Device:
    try:
        return parse_table(read_yaml(path, "a device table"), str(path))
    except YamlError as error:
        raise UserError(f"{path}: {error}") from None


def parse_table(raw: object, source: str) -> Device:
    """Check plain values as a device table; ``source`` names the table in error messages.

    Raises:
        UserError: a key is missing, unknown or of a wrong type, or a number is impossible.
    """
    if not isinstance(raw, dict):
        raise UserError(f"{source}: a device table is a mapping of keys, but this is {type(raw).__name__}")
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"{source}: kind: expected one of {', '.join(_KINDS)}, got {short(kind)!r}")
    try:
        return _KINDS[kind].model_validate(raw)
    except ValidationError as error:
        mapping = "a mapping, as {value: 1.0, source: '...'}"
        problem = validation_problem(error, "table", model=_KINDS[kind], mapping=mapping)
        raise UserError(f"{source}: {problem}") from None


def part_formats(precision: str, device: Device) -> PartFormats:
    """The formats of a precision.

    Raises:
        UserError: the device lacks one of them.
    """
    formats = FORMATS[check_precision(precision, None)]
    for part in (formats.backbone, formats.heads):
        if part.name not in device.formats:
            known = ", ".join(device.formats)
            raise UserError(
                f"device {device.name} has no {part.name}, which precision {precision} needs: it has {known}"
            )
    return formats


def _counted(network: MultiExitNetwork | NetworkWork, batch_size: int) -> NetworkWork:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, but must be at least 1")
    return network if isinstance(network, NetworkWork) else count_work(network)


def _operations(work: NetworkWork, formats: PartFormats) -> dict[str, Any]:
    """The fields of :class:`Costs` that are the same on every device."""
    return {
        "cascaded": work.cascaded,
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
