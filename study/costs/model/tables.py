"""Device tables: YAML files from which the costs of a device are modelled.

To add a device, write a YAML file; no code changes. The bundled tables in ``study/costs/devices/`` are examples: a file
of ``kind: operations`` (:class:`OperationTable`) gives energies of operations and of memory traffic; a file of
``kind: levels`` (:class:`LevelTable`) gives frequency levels with power, peak rates and bandwidth. Name the path of the
file wherever a device is named (``operating_points.costs`` of a study file, ``--costs``,
:func:`study.costs.model.devices.load_device`). A file in ``study/costs/devices/`` is known by the bare name, without
``.yaml``; the file must have the name that it gives in ``name``.

Every number has a ``source``, which begins with ``published:``, ``measured:`` or ``assumption:``. This module checks a
table before any cost is computed. ``docs/devices.md`` describes every key.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from search_spaces.strict_yaml import YamlError, read_yaml
from search_spaces.words import short, validation_problem
from study.errors import UserError
from study.networks.precisions import BF16, FP32, INT8

_QUANTITY = "a mapping, as {value: 1.0, source: '...'}"
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Source: TypeAlias = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    # Strict: a quoted number or a yes/no is an error, not a number.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Quantity(_Section):
    """A positive number and its source."""

    value: Positive
    source: Source


class Overhead(_Section):
    """A number from 0, and its source."""

    value: float = Field(ge=0)
    source: Source


class Share(_Section):
    """A share above 0 and at most 1, and its source."""

    value: float = Field(gt=0, le=1)
    source: Source


class Column(_Section):
    """One number for each frequency level, and their source."""

    values: list[Positive] = Field(min_length=1)
    source: Source


class OperationPrices(_Section):
    """Energies of the operations of one number format."""

    multiply_picojoules: Quantity
    """Energy of one product."""
    add_picojoules: Quantity
    """Energy of adding the product to a sum, in the format of the sum."""


class Throughput(_Section):
    """Rate of the whole device in one number format."""

    operations_per_cycle: Quantity
    """Peak: 2 x multiply-accumulates per clock cycle."""
    utilisation: Share
    """Share of the peak that a network reaches."""


class Levels(_Section):
    """Frequency levels, with busy power or with supply voltage."""

    megahertz: Column
    watts: Column | None = None
    volts: Column | None = None

    @model_validator(mode="after")
    def _matching(self) -> Levels:
        second = self.watts or self.volts
        if second is None or (self.watts and self.volts):
            raise ValueError("levels need either watts or volts")
        if len(second.values) != len(self.megahertz.values):
            raise ValueError(f"{len(self.megahertz.values)} values of megahertz, but {len(second.values)} of the other")
        if any(after <= before for before, after in pairwise(self.megahertz.values)):
            raise ValueError("megahertz must rise from level to level")
        if any(after < before for before, after in pairwise(second.values)):
            raise ValueError("watts or volts must not fall from level to level")
        return self


class _Table(_Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    device: Source
    """Description of the device in words."""

    @field_validator("formats", check_fields=False)
    @classmethod
    def _known_formats(cls, formats: dict[str, _Section]) -> dict[str, _Section]:
        known = [FP32.name, BF16.name, INT8.name]
        unknown = [name for name in formats if name not in known]
        if unknown:
            raise ValueError(f"{short(unknown[0])} is unknown: use {', '.join(known)}")
        if FP32.name not in formats:
            raise ValueError("fp32 is missing, in which heads and the prediction engine compute")
        return formats


class OperationTable(_Table):
    """A device described by energies of operations and of memory traffic; it has no time."""

    kind: Literal["operations"]
    on_chip_picojoules_per_byte: Quantity
    dram_picojoules_per_byte: Quantity
    formats: dict[str, OperationPrices]


class LevelTable(_Table):
    """A device described by frequency levels, power, peak rates and bandwidth."""

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
    def _complete(self) -> LevelTable:
        given = [part is not None for part in (self.static_watts, self.effective_capacitance_nanofarad)]
        if any(given) != all(given) or all(given) != (self.levels.volts is not None):
            raise ValueError(
                "static_watts and effective_capacitance_nanofarad belong to levels with volts, and to those"
            )
        return self


_KINDS: dict[str, type[OperationTable | LevelTable]] = {"operations": OperationTable, "levels": LevelTable}


def read_table(path: Path) -> OperationTable | LevelTable:
    """Read a device table from a YAML file.

    Raises:
        UserError: the file cannot be read, or holds no device table.
    """
    try:
        raw = read_yaml(path, "a device table")
    except YamlError as error:
        raise UserError(f"{path}: {error}") from None
    return parse_table(raw, str(path))


def parse_table(raw: object, source: str) -> OperationTable | LevelTable:
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
        raise UserError(f"{source}: {validation_problem(error, 'table', mapping=_QUANTITY)}") from None
