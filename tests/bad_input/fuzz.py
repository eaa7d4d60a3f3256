"""Feed the readers of files with what nobody wrote, for as long as you like.

    python tests/bad_input/fuzz.py                        # all readers in turn, a minute each, by hypothesis
    python tests/bad_input/fuzz.py study_text set_text --seconds 600
    python tests/bad_input/fuzz.py study_text --engine atheris --seconds 600    # led by coverage (pip install atheris)

A reader may return what is right or refuse in one line (``SpecError``, ``UserError``, ``TableError``); anything else
that it raises, a wait of seconds, or half a gigabyte of memory is a fault. Faults are printed with the smallest input
that shows them, and the exit code is 1. ``test_fuzz.py`` runs the same targets for some seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    if "atheris" in sys.argv:  # coverage is known only of what is imported from here on
        import atheris

        hooks: Any = atheris.instrument_imports(include=["search_spaces", "study", "results", "yaml"])
    else:
        hooks = contextlib.nullcontext()
else:
    hooks = contextlib.nullcontext()

with hooks:
    import numpy as np
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st
    from PIL import Image
    from safetensors import torch as safetensors

    from results.tables import SCHEMAS, TableError, read_table, write_part
    from search_spaces.spec import SpecError, StudySpec, bundled, parse_change, parse_space, validate_space
    from study import checkpoints
    from study.costs.device_models import load_device
    from study.costs.measured_profile import Profile
    from study.costs.profile import Costs
    from study.data.image_folder import read_image
    from study.errors import UserError
    from study.storage import content_hash, publish, read_published
    from study.stored_traces import SplitLogits, stored_traces, write_trace

SECONDS = 10.0
"""A reader that takes longer on so little hangs."""
MEGABYTES = 500
REFUSALS = (SpecError, UserError, TableError)


@dataclass(frozen=True)
class Target:
    """A reader, and what it is fed with."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]


@contextlib.contextmanager
def held_to_the_rules() -> Iterator[None]:
    """Let a reader refuse in one line; all else that it does wrong is raised."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except REFUSALS as error:
        line = str(error)
        assert line and len(line.splitlines()) == 1, f"not one line: {line!r}"
        assert len(line) < 2000, f"a line of {len(line)} characters"
    taken = time.monotonic() - started
    assert taken < SECONDS, f"it took {taken:.1f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"it took {grown:.0f} MB"


# --- inputs ----------------------------------------------------------------------------------------------------------

ODD_TEXTS = (
    "",
    "\0",
    "../x",
    "~",
    "null",
    ".nan",
    ".inf",
    "1e999",
    "yes",
    "!!python/name:os.system",
    "*a",
    "&a",
    "\u2028",
)
ODD_VALUES = st.one_of(
    st.sampled_from([None, True, -1, 0, 2**31, 2**63, 10**30, -(10**30), 1e308, 0.5, "", "x" * 300, [], {}, [[]]]),
    st.sampled_from(ODD_TEXTS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
)


@st.composite
def mutated(draw: st.DrawFn, bases: Callable[[], list[bytes]], *, most: int = 6) -> bytes:
    """Bytes with some spans cut out, overwritten, repeated, or with something put between."""
    content = bytearray(draw(st.sampled_from(bases())))
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        put = draw(
            st.binary(max_size=8)
            | st.sampled_from([text.encode() for text in ODD_TEXTS])
            | st.just(bytes(content[start:end]) * 3)
        )
        content[start : end if draw(st.booleans()) else start] = put
        if draw(st.integers(0, 15)) == 0:
            del content[start:]
    return bytes(content)


@st.composite
def mutated_json(draw: st.DrawFn, base: Callable[[], Any]) -> Any:
    """A JSON value in which some places hold something else, or nothing."""
    value = json.loads(json.dumps(base()))
    for _ in range(draw(st.integers(1, 3))):
        place, parent, key = value, None, None
        while isinstance(place, dict | list) and place and draw(st.integers(0, 4)):
            parent = place
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            place = parent[key]
        if parent is None:
            continue
        if draw(st.integers(0, 4)) == 0:
            del parent[key]
        else:
            parent[key] = draw(ODD_VALUES)
            if isinstance(parent, dict) and draw(st.integers(0, 4)) == 0:
                parent[draw(st.text(max_size=9))] = draw(ODD_VALUES)
    return value


def json_or_bytes(base: Callable[[], Any]) -> st.SearchStrategy[bytes]:
    """JSON texts, most of them still JSON."""
    return st.one_of(
        mutated_json(base).map(lambda value: json.dumps(value).encode()),
        mutated(lambda: [json.dumps(base(), indent=1).encode()]),
        st.binary(max_size=60),
    )


@cache
def study_files() -> list[bytes]:
    """The studies that come with the program."""
    return [(ROOT / "search_spaces" / f"{name}.yaml").read_bytes() for name in bundled()]


@cache
def device_files() -> list[bytes]:
    """The device tables that come with the program."""
    return [path.read_bytes() for path in sorted((ROOT / "study/costs/devices").glob("*.yaml"))]


def small_trace() -> SplitLogits:
    """Four images, two exits and the classifier, three classes."""
    logits = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    return SplitLogits(logits, np.array([0, 1, 2, 1]))


DESCRIPTION = {
    "weights": "a1b2@c3d4",
    "precision": "fp32",
    "int8_execution": None,
    "split": "test",
    "images_digest": "d",
}


@cache
def trace_files() -> dict[str, bytes]:
    """The files of a good trace."""
    with tempfile.TemporaryDirectory() as name:
        write_trace(Path(name) / "t", small_trace(), DESCRIPTION)
        published = read_published(Path(name) / "t")
        assert published is not None
        return dict(published.files)


def trace_header() -> Any:
    """Of the arrays of a good trace."""
    content = trace_files()["trace.safetensors"]
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(header: bytes) -> bytes:
    """The arrays of a good trace under another header."""
    content = trace_files()["trace.safetensors"]
    return len(header).to_bytes(8, "little") + header + content[8 + int.from_bytes(content[:8], "little") :]


@cache
def manifest() -> Any:
    """Of a good trace."""
    with tempfile.TemporaryDirectory() as name:
        publish(Path(name), trace_files())
        return json.loads((Path(name) / "manifest.json").read_text())


@st.composite
def signed_manifests(draw: st.DrawFn) -> bytes:
    """Manifests whose own hash is right: somebody meant them."""
    value = draw(mutated_json(manifest))
    with contextlib.suppress(TypeError, KeyError, ValueError, RecursionError):
        value["sha256"] = content_hash(value["files"], 64)
    return json.dumps(value).encode()


CHECKPOINT = {
    "format_version": checkpoints.FORMAT_VERSION,
    "network": {
        "backbone": "vgg11",
        "width": 0.125,
        "head": {"kind": "linear", "codewords": 64, "sharing": "paper", "conv_channels": 64, "conv_side": 8},
    },
    "training": {"mode": "exits", "batch_size": 32, "learning_rate": 0.001, "precision": "fp32", "seed": 0},
    "data": {
        "name": "digits",
        "image_size": 32,
        "channels": 1,
        "class_names": list("0123456789"),
        "mean": [0.3],
        "std": [0.4],
        "flip": False,
        "crop_padding": 4,
        "digest": "d",
        "settings": {"name": "digits"},
    },
    "history": [
        {
            "epoch": 1,
            "learning_rate": 0.001,
            "train_loss": 2.3,
            "validation_loss": 2.3,
            "classifier_accuracy": 0.1,
            "exit_accuracies": [0.1, 0.1],
            "score": 0.1,
            "seconds": 1.0,
        }
    ],
    "parent": None,
    "versions": {"torch": "2"},
}
COSTS = {
    "segment_flops": [1.0, 2.0, 3.0],
    "head_flops": [0.5, 0.5],
    "engine_step_flops": 0.1,
    "segment_seconds": [1.0, 2.0, 3.0],
    "head_seconds": [0.5, 0.5],
    "engine_step_seconds": 0.1,
    "seconds_source": "measured",
    "device": "here",
    "batch_size": 1,
}
_SPREAD = {"minimum": 1.0, "median": 1.0, "maximum": 1.0}
PROFILE = {
    "format": 1,
    "costs": COSTS,
    "precision": "fp32",
    "int8_execution": None,
    "compiled": False,
    "threads": 1,
    "segment_seconds": [_SPREAD] * 3,
    "head_seconds": [_SPREAD] * 2,
    "engine_step_seconds": _SPREAD,
    "end_to_end_seconds": _SPREAD,
    "relative_error_seconds": 0.0,
    "settings": {},
    "windows": [{"what": "idle", "parts": 0, "repeat": 1, "seconds": 3.0, "joules": 9.0, "images": 0}],
    "versions": {},
    "date": "2025-01-01",
    **dict.fromkeys(("meter", "idle_watts", "end_to_end_joules", "end_to_end_joules_above_idle")),
    **dict.fromkeys(("segment_energy_above_idle", "head_energy_above_idle", "relative_error_energy")),
}


@cache
def weights() -> bytes:
    """A few good tensors."""
    import torch

    return bytes(safetensors.save({"features.0.weight": torch.ones(2, 3), "classifier.bias": torch.zeros(4)}))


@cache
def parquet() -> bytes:
    """A good part of a table."""
    with tempfile.TemporaryDirectory() as name:
        write_part(Path(name), "epochs", [{"epoch": 1, "score": 0.5, "exit_accuracies": [0.1]}])
        (path,) = (Path(name) / "epochs").iterdir()
        return path.read_bytes()


@cache
def pictures() -> list[bytes]:
    """The same picture in several formats."""
    found = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"):
        content = io.BytesIO()
        Image.new("RGB", (12, 9), (200, 30, 90)).save(content, kind)
        found.append(content.getvalue())
    return found


# --- readers ---------------------------------------------------------------------------------------------------------


def read_study(content: bytes | str) -> None:
    """A study is one that can be written and read again, or it is refused with the file's name."""
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    try:
        spec = parse_space(text, "study.yaml")
    except SpecError as error:
        assert str(error).startswith("study.yaml: ")
        raise
    assert validate_space(spec.plain(), "again") == spec


def read_change(text: str) -> None:
    """``--set TEXT``, on top of the quickstart."""
    change = parse_change(text)
    spec = parse_space(study_files()[0].decode(), "study.yaml", [change])
    assert isinstance(spec, StudySpec)


def read_device(content: bytes) -> None:
    """A device table."""
    with in_folder({"table.yaml": content}) as folder:
        load_device(str(folder / "table.yaml"))


def read_trace_files(**files: bytes) -> None:
    """A stored trace in which some files are others, as its manifest knows."""
    with in_folder({}) as folder:
        publish(folder / "t", {**trace_files(), **{name.replace("_", "."): content for name, content in files.items()}})
        for stored in stored_traces(folder):
            assert isinstance(stored.weights, str) and isinstance(stored.split, str)
            split = stored.read()
            samples, _, classes = split.logits.shape
            assert np.isfinite(split.logits).all() and len(split.labels) == samples
            assert ((split.labels >= 0) & (split.labels < classes)).all()


def read_manifest(content: bytes) -> None:
    """A published folder with another manifest: refused, or of no other content."""
    with in_folder({}) as folder:
        publish(folder / "t", trace_files())
        (folder / "t/manifest.json").write_bytes(content)
        published = read_published(folder / "t")
        assert published is not None and set(published.files.values()) <= set(trace_files().values())


def read_checkpoint(content: bytes) -> None:
    """A checkpoint that says something else of itself."""
    with in_folder({}) as folder:
        publish(folder / "best", {"checkpoint.json": content, "weights.safetensors": weights()})
        checkpoint, _ = checkpoints.load_pretrained(folder)
        assert checkpoint is not None and checkpoint.history
        checkpoints.outline(checkpoint.network, checkpoint.data)


def read_weights(content: bytes) -> None:
    """Bare weights, by either name."""
    for name in ("w.safetensors", "w.pt"):
        with in_folder({name: content}) as folder, contextlib.suppress(UserError):
            _, tensors = checkpoints.load_pretrained(folder / name)
            assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def read_parquet(content: bytes) -> None:
    """A part of a table."""
    with in_folder({"epochs/part-00000.parquet": content}) as folder:
        assert list(read_table(folder, "epochs").columns) == SCHEMAS["epochs"].names


def read_picture(content: bytes) -> None:
    """An image."""
    with in_folder({"x.png": content}) as folder:
        assert read_image(folder / "x.png", image_size=8, channels=3).shape == (3, 8, 8)


@contextlib.contextmanager
def in_folder(files: dict[str, bytes]) -> Iterator[Path]:
    """A folder with some files, for a moment."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for file, content in files.items():
            path = Path(name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(name)


def _keys() -> list[str]:
    sections = {name: value for name, value in parse_space("name: x", "x").plain().items() if isinstance(value, dict)}
    return ["name", "seed", *(f"{section}.{key}" for section, inner in sections.items() for key in inner)]


CHANGES = st.one_of(
    st.text(max_size=40),
    st.builds("{}={}".format, st.sampled_from(_keys()) | st.text(max_size=9), st.text(max_size=20)),
    st.builds(lambda key, value: f"{key}={json.dumps(value)}", st.sampled_from(_keys()), ODD_VALUES),
)
TARGETS: dict[str, Target] = {
    "study_text": Target(st.text(max_size=300) | st.binary(max_size=300), read_study),
    "study_file": Target(mutated(study_files), read_study),
    "study_values": Target(mutated_json(lambda: parse_space("name: x", "x").plain()).map(json.dumps), read_study),
    "set_text": Target(CHANGES, read_change),
    "device_file": Target(mutated(device_files), read_device),
    "trace_description": Target(
        json_or_bytes(lambda: DESCRIPTION), lambda content: read_trace_files(trace_json=content)
    ),
    "trace_header": Target(
        json_or_bytes(trace_header), lambda header: read_trace_files(trace_safetensors=with_header(header))
    ),
    "trace_bytes": Target(
        mutated(lambda: [trace_files()["trace.safetensors"]]),
        lambda content: read_trace_files(trace_safetensors=content),
    ),
    "manifest": Target(json_or_bytes(manifest) | signed_manifests(), read_manifest),
    "checkpoint": Target(json_or_bytes(lambda: CHECKPOINT), read_checkpoint),
    "weights": Target(mutated(lambda: [weights()]), read_weights),
    "costs": Target(json_or_bytes(lambda: COSTS), Costs.from_json),
    "profile": Target(json_or_bytes(lambda: PROFILE), Profile.from_json),
    "table": Target(mutated(lambda: [parquet()], most=3), read_parquet),
    "picture": Target(mutated(pictures), read_picture),
}


def check(name: str, value: Any) -> None:
    """Feed a target with one input."""
    with held_to_the_rules():
        TARGETS[name].read(value)


# --- long runs -------------------------------------------------------------------------------------------------------


def by_hypothesis(name: str, seconds: float) -> int:
    """Feed a target until the time is up; returns the number of inputs."""
    count, end, rounds = 0, time.monotonic() + seconds, time.time_ns()

    def feed(value: Any) -> None:
        nonlocal count
        count += 1
        check(name, value)

    while time.monotonic() < end:
        rounds += 1
        once = settings(
            max_examples=300,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seed(rounds)(once(given(TARGETS[name].inputs)(feed)))()
    return count


def by_atheris(name: str, seconds: float) -> None:
    """The same, led by the coverage of what was read; ends the process."""
    import atheris

    feed = settings(deadline=None, database=None)(given(TARGETS[name].inputs)(lambda value: check(name, value)))
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds:.0f}", "-rss_limit_mb=4096"], feed.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def main() -> int:
    """Run some targets, tell how many inputs they had, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    if options.engine == "atheris":
        if len(options.targets) != 1:
            parser.error("atheris takes one target a process")
        by_atheris(options.targets[0], options.seconds)
    faults = 0
    for name in options.targets or TARGETS:
        try:
            print(f"{name}: {by_hypothesis(name, options.seconds)} inputs, no fault", flush=True)
        except Exception:
            faults += 1
            print(f"{name}: a fault\n{traceback.format_exc(limit=-6)}", flush=True)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
