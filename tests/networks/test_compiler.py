"""`--compile` on a machine that lacks what it needs is refused in one line, before anything is computed."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.refusals import one_line

from study.cli.main import main
from study.errors import UserError
from study.networks.compiler import check_compiler

CPU = torch.device("cpu")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine that can compile, whatever this one can."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=0))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    check_compiler(CPU)
    check_compiler(torch.device("cuda"))
    return monkeypatch


def no_compiler(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "which", lambda name: None)


def another_compiler(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "which", lambda name: None if "nvc" in name else name)
    patch.setenv("CXX", "nvc++ -O3")


def noexec(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))


def no_headers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sysconfig, "get_path", lambda name: "/nowhere")


def no_cache(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", "/dev/null/cache")


BAD: list[tuple[Callable[[pytest.MonkeyPatch], None], str, tuple[str, ...]]] = [
    (no_compiler, "cpu", ("C++ compiler", "g++", "CXX")),
    (no_compiler, "cuda", ("a C compiler", "gcc or clang", "CC")),
    (another_compiler, "cpu", ("there is no nvc++", "CXX")),
    (noexec, "cpu", ("mounted noexec", "TORCHINDUCTOR_CACHE_DIR")),
    (no_headers, "cpu", ("no Python.h in /nowhere", "python3-dev")),
    (no_cache, "cpu", ("/dev/null", "cannot be written", "TORCHINDUCTOR_CACHE_DIR")),
]


@pytest.mark.parametrize(("lack", "device", "told"), BAD)
def test_what_is_missing_is_named(
    lack: Callable[[pytest.MonkeyPatch], None], device: str, told: tuple[str, ...], able: pytest.MonkeyPatch
) -> None:
    lack(able)
    with pytest.raises(UserError) as error:
        check_compiler(torch.device(device))
    assert all(text in one_line(error) for text in (*told, "--compile"))


def test_the_variable_names_the_compiler(able: pytest.MonkeyPatch) -> None:
    able.setattr(shutil, "which", lambda name: name if name == "clang++" else None)
    able.setenv("CXX", "clang++ -stdlib=libc++")
    check_compiler(CPU)


@pytest.mark.parametrize("command", ["profile --device cpu --width 0.125", "evaluate --device cpu --pretrained {bare}"])
def test_both_commands_refuse_before_they_compute(
    command: str, able: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_compiler(able)
    (tmp_path / "bare.pt").write_bytes(b"not even read")
    able.setattr("study.run.one_network.measure_profile", lambda *_, **__: pytest.fail("measured"))
    output = f" --output {tmp_path / 'profiles'}" if command.startswith("profile") else ""
    assert main([*command.format(bare=tmp_path / "bare.pt").split(), "--compile", *output.split()]) == 2
    told = capsys.readouterr().err
    assert "--compile needs a C++ compiler" in told and told.count("\n") == 1
