"""Measured seconds: on a simulated CPU, on a simulated GPU with a queue, and once for real."""

from collections.abc import Callable
from itertools import groupby, pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.simulated_machine import (
    BATCH,
    COPY,
    DECISION,
    ENGINE,
    HEAD_SECONDS,
    HEADS,
    SECONDS,
    SEGMENTS,
    Machine,
    counted,
    measured,
)

from study.costs.measure.bench import CudaStopwatch, check_same_device, measure_profile
from study.costs.measure.profile import MeasureSettings, Profile, Spread
from study.networks.multi_exit import build_network
from study.networks.quantization import in_fp32
from study.networks.settings import HeadSettings, NetworkSettings

PASS = ["segment 1", "segment 2", "segment 3", "classifier", "copy"]
PASS_WITH_HEADS = [name for number in (1, 2, 3) for name in (f"segment {number}", f"head {number}", "copy", "decision")]


def test_the_seconds_of_a_head_hold_the_copy_to_the_host_and_the_decision():
    profile = measured(Machine(), metered=False)
    heads = np.array([seconds for seconds, _ in HEADS])
    np.testing.assert_allclose(profile.costs.head_seconds, (heads + COPY + DECISION) / BATCH)
    on_host = [spread.median for spread in profile.head_host_seconds]
    np.testing.assert_allclose(on_host, np.full(3, COPY + DECISION) / BATCH)
    assert Profile.__dataclass_fields__["head_seconds"].metadata["measures"] == "head, copy to host, decision"


def test_the_classic_network_copies_its_answers_to_the_host_once():
    profile = measured(Machine(), metered=False)
    segments = np.add([seconds for seconds, _ in SEGMENTS], [0, 0, 0, COPY])
    np.testing.assert_allclose(profile.costs.segment_seconds, segments / BATCH)
    assert profile.end_to_end_seconds.median == pytest.approx(segments.sum() / BATCH)


LAUNCH = 0.0001
"""Seconds in which the host gives a part to the GPU."""


class Gpu(Machine):
    """The host queues parts; the device works through the queue. A copy waits for the device."""

    done = 0.0

    def spend(self, name: str, seconds: float, watts: float) -> None:
        self.ran.append(name)
        if name.startswith(("segment", "head", "classifier")):
            self.now += LAUNCH
            self.done = max(self.done, self.now) + seconds
        else:
            if name == "copy":
                self.synchronise()
            self.now += seconds

    def synchronise(self) -> None:
        self.now = max(self.now, self.done)

    def laps(self, run: Callable[[Callable[[], object]], object]) -> list[float]:
        """The device notes a mark when it gets there."""
        marks: list[float] = []
        self.synchronise()
        run(lambda: marks.append(max(self.now, self.done)))
        self.synchronise()
        return [after - before for before, after in pairwise(marks)]


def test_a_policy_waits_for_a_gpu_at_each_head_and_the_classic_network_once():
    machine = Gpu()
    profile = measured(machine, metered=False, stopwatch=machine)
    # In the full queue the launches of all segments but the first one are hidden.
    segments = np.add([seconds for seconds, _ in SEGMENTS], [LAUNCH, 0, 0, COPY])
    np.testing.assert_allclose(profile.costs.segment_seconds, segments / BATCH)
    assert profile.end_to_end_seconds.median == pytest.approx(segments.sum() / BATCH)
    # Before each head the queue is empty: its launch shows.
    heads = np.array([seconds for seconds, _ in HEADS]) + LAUNCH + COPY + DECISION
    np.testing.assert_allclose(profile.costs.head_seconds, heads / BATCH)


def test_timing_windows_are_interleaved():
    machine = Machine()
    measured(machine, metered=False, repeats=2, warm_up_seconds=1e-9)
    kinds = [name.split()[0] for name in machine.ran if name.startswith(("classifier", "head", "engine"))]
    # Once to warm up and two rounds that count.
    assert [kind for kind, _ in groupby(kinds)] == ["classifier", "head", "engine"] * 3


def test_parts_are_timed_in_whole_passes():
    machine = Machine()
    measured(machine, metered=False, repeats=1)
    ran = machine.ran
    while ran:
        whole = next(part for part in (PASS, PASS_WITH_HEADS, ["engine"]) if ran[: len(part)] == part)
        ran = ran[len(whole) :]


def test_passes_timed_by_part_take_turns_with_those_timed_as_a_whole():
    """The machine gets slower and slower: what is measured later would look dearer."""
    machine = Machine()
    spend = machine.spend
    machine.spend = lambda name, seconds, watts: spend(name, seconds * (1 + machine.now), watts)
    profile = measured(machine, metered=False, repeats=1, timing_window_seconds=20.0)
    assert profile.end_to_end_seconds.median > 10 * SECONDS.sum()
    # A pass follows the other at once: in its 58.5 ms the machine gets slower by as much.
    assert profile.relative_error_seconds == pytest.approx(0, abs=0.1)


def test_an_interruption_hits_no_part():
    """One pass in sixteen takes a second longer, within segment 2."""
    machine = Machine()
    spend = machine.spend

    def interrupted(name: str, seconds: float, watts: float) -> None:
        spend(name, seconds + (name == "segment 2" and machine.ran.count(name) % 16 == 0), watts)

    machine.spend = interrupted
    profile = measured(machine, metered=False, timing_window_seconds=1.0)
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS)
    assert profile.end_to_end_seconds.median == pytest.approx(SECONDS.sum())
    assert profile.relative_error_seconds == pytest.approx(0, abs=1e-9)


def test_a_gpu_notes_the_marks_itself_and_is_waited_for_before_and_behind_a_pass(monkeypatch):
    """The host is far ahead of a GPU that takes a millisecond a part: events count from when the GPU gets there."""
    queued, waited = [], []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            self.milliseconds, self.due = len(queued) * 1.0, len(waited) + 1

        def elapsed_time(self, later: "Event") -> float:
            assert len(waited) >= later.due, "the GPU was not waited for"
            return later.milliseconds - self.milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)

    def run(mark: Callable[[], object]) -> None:
        for parts in (2, 1, 3):
            mark()
            queued.extend(["part"] * parts)
        mark()

    assert CudaStopwatch(torch.device("cuda", 1)).laps(run) == pytest.approx([0.002, 0.001, 0.003])
    assert waited == [torch.device("cuda", 1)] * 2  # before the pass and behind it


def test_what_a_cold_machine_does_is_not_counted():
    """All is slow for the first second, and each part in its first three calls."""
    machine = Machine()
    spend = machine.spend

    def cold(name: str, seconds: float, watts: float) -> None:
        slow = machine.now < 1.0 or machine.ran.count(name) < 3
        spend(name, seconds * (3.0 if slow else 1.0), watts)

    machine.spend = cold
    profile = measured(machine, metered=False, repeats=1)
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS)
    np.testing.assert_allclose(profile.costs.head_seconds, HEAD_SECONDS)


def test_passes_are_repeated_until_they_fill_their_window():
    """0.1 s for each of the segments, the classifier and the whole; for each head; and for the engine."""
    machine = Machine()
    measured(machine, metered=False, repeats=1, timing_window_seconds=0.1, warm_up_seconds=1e-9)
    names = (name for name in machine.ran if name in ("classifier", "head 3", "engine"))
    passes, with_heads, engine = [len(list(run)) for _, run in groupby(names)][-3:]
    assert passes == 2 * ceil(5 * 0.1 / (2 * (0.058 + COPY)))
    assert with_heads == ceil(3 * 0.1 / (0.052 + 3 * (COPY + DECISION)))
    assert engine == pytest.approx(0.1 / ENGINE, abs=1)


def test_the_spread_of_the_repeats_is_reported():
    profile = measured(Machine(noise=0.2), repeats=5)
    for spread in (*profile.segment_seconds, *profile.head_seconds, profile.idle_watts, profile.end_to_end_joules):
        assert spread.minimum < spread.median < spread.maximum
    assert [spread.median for spread in profile.segment_seconds] == pytest.approx(profile.costs.segment_seconds)
    assert [spread.median for spread in profile.head_seconds] == pytest.approx(profile.costs.head_seconds)
    whole = [window for window in profile.windows if window.what == "end_to_end"]
    joules = sorted(window.joules / window.images for window in whole)
    assert profile.end_to_end_joules == Spread(minimum=joules[0], median=joules[2], maximum=joules[4])


def test_the_relative_error_of_seconds_is_that_of_hand_computation():
    """Each reading of the clock takes a millisecond: one between two parts, and one for the whole."""
    machine = Machine()

    def slow_clock() -> float:
        machine.now += 0.001
        return machine.now

    machine.clock = slow_clock
    profile = measured(machine, metered=False)
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS + 0.001 / BATCH)
    assert profile.end_to_end_seconds.median == pytest.approx(SECONDS.sum() + 0.001 / BATCH)
    assert profile.relative_error_seconds == pytest.approx((62 + 1000 * COPY) / (59 + 1000 * COPY) - 1)


def test_parts_that_a_cold_cache_slows_down_add_up_to_the_whole():
    """A part takes 10 % longer behind another part than behind itself."""
    machine = Machine()
    spend = machine.spend

    def with_cold_cache(name: str, seconds: float, watts: float) -> None:
        cold = machine.ran and machine.ran[-1] != name
        spend(name, seconds * (1.1 if cold else 1.0), watts)

    machine.spend = with_cold_cache
    profile = measured(machine, metered=False)
    np.testing.assert_allclose(profile.costs.segment_seconds, 1.1 * SECONDS)
    np.testing.assert_allclose(profile.costs.head_seconds, 1.1 * HEAD_SECONDS)
    assert profile.relative_error_seconds == pytest.approx(0, abs=1e-9)


def test_a_real_network_on_the_cpu(tmp_path: Path):
    settings = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(codewords=4))
    network = build_network(settings, classes=3, image_size=32, channels=1)
    exits = network.exit_count
    short = MeasureSettings(repeats=2, warm_up_seconds=0.01, timing_window_seconds=0.001)
    profile = measure_profile(in_fp32(network), counted=counted(exits), batch_size=2, meter=None, settings=short)
    costs = profile.costs
    for parts, length in ((costs.segment_seconds, exits + 1), (costs.head_seconds, exits)):
        assert np.shape(parts) == (length,)
        assert np.all(np.array(parts) > 0)
    assert costs.engine_step_seconds > 0
    assert (profile.precision, profile.int8_execution, profile.meter) == ("fp32", None, None)
    assert not network.training
    (tmp_path / "profile.json").write_text(profile.to_json())
    check_same_device(Profile.from_json((tmp_path / "profile.json").read_bytes()), torch.device("cpu"))
