"""Measured profiles: settings, what a profile says of its circumstances, and its JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from support.simulated_machine import Machine, counted, measured, network_on

from study.costs.measure import bench
from study.costs.measure.bench import check_same_device, measure_profile
from study.costs.measure.profile import MeasureSettings, Profile
from study.errors import UserError
from study.storage.versions import versions


@pytest.mark.parametrize(
    "settings",
    [{"repeats": 0}, {"timing_window_seconds": 0.0}, {"energy_window_seconds": float("nan")}, {"settle_seconds": -1.0}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        MeasureSettings(**settings)


def test_costs_of_another_network_and_an_empty_batch_are_refused():
    with pytest.raises(UserError, match="costs of 2 exits were given for a network with 3"):
        measured(Machine(), counts=counted(2))
    with pytest.raises(UserError, match="batch_size is 0"):
        measure_profile(network_on(Machine()), counted=counted(), batch_size=0, meter=None)


def test_a_profile_of_another_device_is_refused(monkeypatch):
    profile = measured(Machine(), metered=False)
    check_same_device(profile, torch.device("cpu"))
    elsewhere = replace(profile, costs=replace(profile.costs, device="Another CPU"))
    monkeypatch.setattr(bench, "device_name", lambda device: "This CPU")
    with pytest.raises(UserError, match="was measured on Another CPU, this is This CPU: measure it here") as error:
        check_same_device(elsewhere, torch.device("cpu"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("metered", [True, False])
def test_json_holds_every_field(metered):
    profile = measured(Machine(noise=0.1), metered=metered)
    again = Profile.from_json(profile.to_json())
    for name in Profile.__dataclass_fields__:
        if name != "costs":
            assert getattr(again, name) == getattr(profile, name), name
    assert again.costs.to_json() == profile.costs.to_json()
    assert again.to_json() == profile.to_json()


def test_what_a_profile_says_of_its_circumstances():
    profile = measured(Machine())
    assert (profile.precision, profile.int8_execution, profile.compiled) == ("int8", "x86_kernels", False)
    assert profile.threads == torch.get_num_threads()
    assert profile.meter == {"device": "simulated", "power_limit_watts": 250.0}
    assert profile.versions == versions()
    assert datetime.fromisoformat(profile.date).utcoffset() is not None


def changed(**changes) -> Callable[[dict], dict]:
    return lambda values: values | changes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(format=99), "its format is 99"),
        (lambda values: {key: value for key, value in values.items() if key != "format"}, "its format is None"),
        (changed(precision="int4"), "its precision is 'int4'"),
        (changed(costs={"segment_flops": [1.0]}), "no cost profile"),
        (changed(colour="red"), "colour"),
        (lambda values: {key: value for key, value in values.items() if key != "idle_watts"}, "idle_watts"),
        (changed(end_to_end_seconds={"mean": 1.0}), "mean"),
        (changed(relative_error_seconds=float("nan")), "NaN"),
        (lambda values: [values], "no JSON object"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(change, reason):
    values = json.loads(measured(Machine(), metered=False).to_json())
    with pytest.raises(UserError, match=reason) as error:
        Profile.from_json(json.dumps(change(values)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe", "3", "null"])
def test_text_that_is_no_profile_is_refused(text):
    with pytest.raises(UserError, match="no measured cost profile"):
        Profile.from_json(text)


def test_numbers_that_json_does_not_know_are_never_written():
    profile = measured(Machine(), metered=False)
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(profile, relative_error_seconds=float("inf")).to_json()
