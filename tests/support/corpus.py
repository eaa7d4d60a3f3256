"""What a case of bad input is, and how the program must meet it.

One line on stderr that names what is wrong and where, exit code 2, nothing on stdout, no file made, changed or removed,
and no work begun: the parts of the program that compute are out of bounds while a case runs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import torch as safetensors

from study.cli.main import main
from study.storage.publish import publish, read_published

LONGEST_LINE = 1100
SECONDS = 60
"""A case that takes longer hangs."""
MEGABYTES = 600
"""A case that needs so much more memory than all before it was not refused in time."""

NETWORK = "--backbone vgg11 --width 0.125 --device cpu --precision fp32"
TRAIN = f"train {NETWORK} --epochs 1 --batch-size 32"
EVALUATE = "evaluate --device cpu --beta 1.5"


class Hangs(BaseException):
    """No error that the program could take for its own."""


@dataclass(frozen=True)
class Case:
    """A mistake and how it must be told.

    Args:
        id: short.
        why: the mistake in a sentence.
        arrange: makes its files in a :class:`Workplace`.
        command: of ``predictive-exit``, run in the workplace.
        told: what the line must contain: what is wrong, and where.
        around: what surrounds the command when it runs, as a context.
    """

    id: str
    why: str
    arrange: Callable[[Workplace], object]
    command: str | Sequence[str]
    told: tuple[str, ...]
    around: Callable[[Workplace], AbstractContextManager[object]] = lambda place: contextlib.nullcontext()


def nothing(place: Workplace) -> None:
    """The case needs no files."""


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrise a test over cases, by their ids."""
    names = [case.id for case in cases]
    assert len(set(names)) == len(names), f"two cases have the same id: {sorted(names)}"
    return pytest.mark.parametrize("case", cases, ids=names)


@dataclass(frozen=True)
class Workplace:
    """The folder that a case works in, and what its arrangement may take from the shelf."""

    root: Path
    shelf: Path
    """Things that took time to make, to be copied: ``models/original``, ``models/exits``, ``run``."""

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, content: str | bytes) -> Path:
        """A file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def take(self, name: str, to: str | None = None) -> Path:
        """A copy of something from the shelf."""
        path = self.root / (to or name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.shelf / name, path)
        return path

    def images(self, *folders: str, count: int = 10) -> None:
        """Folders of small PNG images."""
        for folder in folders:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.new("RGB", (12, 10), (number * 20, 90, 40)).save(self.root / folder / f"{number:02}.png")

    def refuse(self, case: Case, capfd: pytest.CaptureFixture[str]) -> str:
        """Run a case and hold it to all that is asked of a refusal; returns the line."""
        case.arrange(self)
        arguments = shlex.split(case.command) if isinstance(case.command, str) else list(case.command)
        before = snapshot(self.root)
        with case.around(self):
            code, out, error = self._run(arguments, capfd)
        told = f"{case.why}\nstdout: {out[-2000:]}\nstderr: {error[-4000:]}"
        assert code == 2, f"exit code {code}: {told}"
        assert "Traceback" not in error, told
        assert error.endswith("\n") and len(error.splitlines()) == 1 and error.strip(), f"not one line: {told}"
        assert len(error) < LONGEST_LINE, f"a line of {len(error)} characters: {told}"
        assert error.isprintable() or error[:-1].isprintable(), f"control characters: {told}"
        missing = [text for text in case.told if text not in error]
        assert not missing, f"it does not say {missing}: {told}"
        assert out == "", told
        after = snapshot(self.root)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert not changed, f"it left its traces: {sorted(changed)}"
        return error

    def _run(self, arguments: Sequence[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
        capfd.readouterr()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.MonkeyPatch.context() as patch, time_limit(SECONDS):
            patch.chdir(self.root)
            forbid_work(patch)
            try:
                code = main(arguments)
            except SystemExit as exit:  # argparse
                code = exit.code if isinstance(exit.code, int) else 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
        assert grown < MEGABYTES, f"it took {grown:.0f} MB"
        captured = capfd.readouterr()
        return code, captured.out, captured.err


def snapshot(root: Path) -> dict[str, str]:
    """Everything below a folder: kind and content of each entry, and when its content was last changed."""
    found = {}
    for path in sorted(root.rglob("*")):
        known = path.lstat()
        name = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
        content = str(known.st_mtime_ns)
        if path.is_symlink():
            content += str(path.readlink())
        elif path.is_file() and known.st_size < 2**27:
            content += hashlib.sha256(path.read_bytes()).hexdigest()
        found[name] = f"{known.st_mode:o} {known.st_size} {content}"
    return found


WORK = (
    "study.execution.trial.train",
    "study.run.evaluate.run_policy",
    "study.run.evaluate.trace_images",
    "study.run.one_network.measure_profile",
    "ray.init",
)
"""What computes."""


def forbid_work(patch: pytest.MonkeyPatch) -> None:
    """Whatever is bad must be refused before any of this begins."""

    def forbidden(name: str) -> Callable[..., None]:
        def begin(*_: object, **__: object) -> None:
            raise AssertionError(f"{name} was called: work began before the refusal")

        return begin

    for name in WORK:
        patch.setattr(name, forbidden(name))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End what hangs, a read of a pipe without a writer included."""

    def late(*_: object) -> None:
        raise Hangs(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True)  # a signal does not end a wait inside of a library
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Damage that a manifest does not tell: what it names is what is there.


def republish(folder: Path, **changed: bytes | None) -> None:
    """Publish a folder anew with other content; ``weights_safetensors`` stands for ``weights.safetensors``."""
    published = read_published(folder)
    assert published is not None
    files = dict(published.files)
    for name, content in changed.items():
        file = name.replace("_", ".", 1)
        assert file in files, f"{folder} has no {file}"
        files.pop(file)
        if content is not None:
            files[file] = content
    publish(folder, files)


def edit_json(folder: Path, file: str, change: Callable[[dict], object]) -> None:
    """Change a published JSON file of a folder."""
    published = read_published(folder)
    assert published is not None
    value = json.loads(published.files[file])
    change(value)
    republish(folder, **{file.replace(".", "_"): json.dumps(value).encode()})


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the published weights of a checkpoint."""
    published = read_published(folder)
    assert published is not None
    tensors = safetensors.load(published.files["weights.safetensors"])
    change(tensors)
    republish(folder, weights_safetensors=safetensors.save(tensors))


def first_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    """Change the weights of the first convolution."""

    def apply(weights: dict[str, torch.Tensor]) -> None:
        name = "backbone.features.0.weight"
        weights[name] = change(weights[name].clone())

    return apply


def one_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Change one number of a tensor."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return change


def cut(content: bytes) -> bytes:
    """The first half."""
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """Another byte in the first half."""
    place = len(content) // 5
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


class Runs:
    """Pickled, it runs a command wherever it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


CODE = pickle.dumps(Runs())
