"""Device tables and cost profiles that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from support.corpus import EVALUATE, Case, Workplace, each, nothing

EXITS = f"{EVALUATE} --pretrained models/exits"


def bad(
    id: str, why: str, command: str | list[str], *told: str, given: Callable[[Workplace], object] = nothing
) -> Case:
    return Case(id, why, given, command, told)


def models(place: Workplace) -> None:
    place.take("models")


def table(keys: str, name: str = "mine.yaml") -> Callable[[Workplace], None]:
    """A device table that is good but for these lines, which replace those of their keys."""

    def arrange(place: Workplace) -> None:
        models(place)
        text = (
            "kind: operations\nname: mine\ndevice: a table\n"
            "on_chip_picojoules_per_byte: {value: 1.0, source: here}\n"
            "dram_picojoules_per_byte: {value: 100.0, source: here}\n"
            "formats: {fp32: {multiply_picojoules: {value: 3.7, source: x}, add_picojoules: {value: 0.9, source: x}}}\n"
        )
        replaced = {line.partition(":")[0] for line in keys.splitlines()}
        kept = [line for line in text.splitlines() if line.partition(":")[0] not in replaced]
        place.write(name, "\n".join([*kept, keys, ""]))

    return arrange


def costs(id: str, why: str, given: Callable[[Workplace], object], *told: str, file: str = "mine.yaml") -> Case:
    return bad(id, why, f"{EXITS} --other-device --costs {file}", file, *told, given=given)


DEVICES = [
    costs("table-empty", "nothing in it", lambda place: (models(place), place.write("mine.yaml", "")), "mapping"),
    costs("table-kind", "no kind of table", table("kind: magic"), "kind", "operations", "'magic'"),
    costs("table-nan", "no number", table("dram_picojoules_per_byte: {value: .nan, source: x}"), "dram", "nan"),
    costs(
        "table-negative", "a negative price", table("dram_picojoules_per_byte: {value: -1.0, source: x}"), "dram", "-1"
    ),
    costs("table-text", "a quoted number", table("dram_picojoules_per_byte: {value: '1', source: x}"), "dram", "'1'"),
    costs(
        "table-unit",
        "another unit",
        table("dram_nanojoules_per_byte: {value: 1.0, source: x}"),
        "dram_nanojoules",
        "unknown key",
    ),
    costs(
        "table-unsourced",
        "a number from nowhere",
        table("dram_picojoules_per_byte: {value: 1.0}"),
        "source",
        "required",
    ),
    costs(
        "table-tag",
        "a tag that would run a command",
        table("device: !!python/object/apply:os.system ['touch ran']"),
        "line",
        "python/object",
    ),
    costs("table-format", "an unknown format", table("formats: {fp64: {}}"), "formats"),
    costs("table-name", "another's name", table("name: horowitz-2014-45nm"), "horowitz-2014-45nm", "other numbers"),
    costs("table-folder", "a folder", lambda place: (models(place), (place / "mine.yaml").mkdir()), "folder"),
    costs("table-pipe", "a pipe", lambda place: (models(place), os.mkfifo(place / "mine.yaml")), "no regular file"),
    costs(
        "table-large",
        "a sparse file of a terabyte",
        lambda place: (models(place), os.truncate(place.write("mine.yaml", "a: 1"), 2**40)),
        "too many",
    ),
]


def profile(change: Callable[[dict], object]) -> Callable[[Workplace], None]:
    """A measured profile that is good but for a change."""
    spread = {"minimum": 1e-6, "median": 1e-6, "maximum": 1e-6}

    def arrange(place: Workplace) -> None:
        models(place)
        costs = json.loads(next((place.shelf / "run" / "profiles").glob("*.json")).read_text())
        exits = len(costs["head_flops"])
        costs |= {"segment_seconds": [1e-6] * (exits + 1), "head_seconds": [1e-6] * exits, "seconds_source": "measured"}
        value = {
            "format": 1,
            "costs": costs,
            "precision": "fp32",
            "int8_execution": None,
            "compiled": False,
            "threads": 1,
            "segment_seconds": [spread] * (exits + 1),
            "head_seconds": [spread] * exits,
            "head_host_seconds": [spread] * exits,
            "engine_step_seconds": spread,
            "end_to_end_seconds": spread,
            "relative_error_seconds": 0.0,
            "settings": {},
            "windows": [],
            "versions": {},
            "date": "2025-01-01T00:00:00+00:00",
            **dict.fromkeys(
                (
                    *("meter", "idle_watts", "end_to_end_joules", "end_to_end_joules_above_idle"),
                    *("segment_energy_above_idle", "head_energy_above_idle", "relative_error_energy"),
                )
            ),
        }
        change(value)
        place.write("mine.json", json.dumps(value))

    return arrange


def measured(id: str, why: str, change: Callable[[dict], object], *told: str) -> Case:
    return costs(id, why, profile(change), *told, file="mine.json")


def raw_profile(id: str, why: str, content: str | bytes, *told: str) -> Case:
    return costs(id, why, lambda place: (models(place), place.write("mine.json", content)), *told, file="mine.json")


PROFILES = [
    costs("profile-missing", "no such profile", models, "no such profile", file="mine.json"),
    costs(
        "profile-folder",
        "a folder",
        lambda place: (models(place), (place / "mine.json").mkdir()),
        "no file",
        file="mine.json",
    ),
    costs(
        "profile-pipe",
        "a pipe",
        lambda place: (models(place), os.mkfifo(place / "mine.json")),
        "no file",
        file="mine.json",
    ),
    raw_profile("profile-empty", "nothing in it", "", "no measured cost profile"),
    raw_profile("profile-truncated", "cut", '{"format": 1, "costs": {"segm', "no measured cost profile"),
    raw_profile("profile-list", "a list", "[1, 2]", "no measured cost profile", "no JSON object"),
    raw_profile("profile-latin", "not UTF-8", b'{"format": "\xe9"}', "no measured cost profile"),
    raw_profile("profile-nested", "10^5 brackets", "[" * 10**5, "no measured cost profile"),
    raw_profile("profile-digits", "5,000 digits", f'{{"format": {"9" * 5000}}}', "no measured cost profile"),
    raw_profile("profile-nan", "no number", '{"format": 1, "threads": NaN}', "no measured cost profile", "NaN"),
    measured("profile-format", "another format", lambda value: value.update(format=7), "format is 7", "reads 1"),
    measured(
        "profile-overflow",
        "a number beyond all",
        lambda value: value["costs"].update(engine_step_flops="1e999"),
        "engine_step_flops",
    ),
    measured(
        "profile-negative",
        "negative seconds",
        lambda value: value["costs"]["segment_seconds"].__setitem__(0, -1.0),
        "segment_seconds",
        "negative",
    ),
    measured(
        "profile-null",
        "nothing for a number",
        lambda value: value["costs"]["segment_flops"].__setitem__(0, None),
        "segment_flops",
    ),
    measured(
        "profile-text", "a text for numbers", lambda value: value["costs"].update(segment_flops="many"), "segment_flops"
    ),
    measured(
        "profile-short", "a part too few", lambda value: value["costs"]["segment_flops"].pop(), "segment_flops", "shape"
    ),
    measured(
        "profile-units",
        "another unit's key",
        lambda value: value["costs"].update(segment_milliseconds=[1]),
        "segment_milliseconds",
    ),
    measured("profile-key", "an unknown key", lambda value: value.update(colour="red"), "colour"),
    measured(
        "profile-precision", "at another precision", lambda value: value.update(precision="int8"), "int8, not at fp32"
    ),
    measured(
        "profile-unknown-precision", "an unknown precision", lambda value: value.update(precision="int3"), "'int3'"
    ),
    measured(
        "profile-flops",
        "of another network",
        lambda value: value["costs"].update(segment_flops=[1.0] * 13),
        "another network",
    ),
    bad(
        "profile-device",
        "of another machine",
        f"{EXITS} --costs mine.json",
        "mine.json",
        "measured on",
        "--other-device",
        given=profile(lambda value: None),
    ),
]


@each([*DEVICES, *PROFILES])
def test_a_bad_device_or_profile_is_refused(
    case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    workplace.refuse(case, capfd)
