"""Sections of a device table. :mod:`study.costs.model.devices` joins them to devices."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive: TypeAlias = Annotated[float, Field(gt=0)]
Source: TypeAlias = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A mapping of known keys. Strict: a quoted number or a yes/no is an error, not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Quantity(Section):
    """A positive number and its source."""

    value: Positive
    source: Source


class Overhead(Quantity):
    """A number from 0, and its source."""

    value: float = Field(ge=0)


class Share(Quantity):
    """A share above 0 and at most 1, and its source."""

    value: float = Field(gt=0, le=1)


class Column(Section):
    """One number for each frequency level, and their source."""

    values: list[Positive] = Field(min_length=1)
    source: Source


class OperationPrices(Section):
    """Energies of the operations of one number format."""

    multiply_picojoules: Quantity
    """Energy of one product."""
    add_picojoules: Quantity
    """Energy of adding the product to a sum, in the format of the sum."""


class Throughput(Section):
    """Rate of the whole device in one number format."""

    operations_per_cycle: Quantity
    """Peak: 2 x multiply-accumulates per clock cycle."""
    utilisation: Share
    """Share of the peak that a network reaches."""


class Levels(Section):
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
