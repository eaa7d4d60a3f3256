"""What each node of a cluster gets: the user's own backbone, and images in a cache of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from PIL import Image
from support.commands import Command, started
from support.own_backbone import OWN_MODULE, write_own_backbone
from support.ray_nodes import CREDENTIALS, Node, cluster
from support.studies import tiny_settings

from results.parts import read_table
from results.storage.paths import location
from search_spaces.spec import ResourcesSpec
from study.data.loading import load_dataset, load_test_set
from study.data.settings import DataSettings, Origin
from study.errors import UserError
from study.execution.ray import executor as ray_executor
from study.execution.ray import nodes as ray_nodes
from study.progress import Reporter

if TYPE_CHECKING:
    from support.s3_server import S3Server

pytest_plugins = ["support.s3_server"]

IMAGES = 60


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(IMAGES // 2):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def test_each_node_makes_its_own_cache_and_runs_a_backbone_in_a_file_beside_the_study_file(
    s3: S3Server, pets: Path, tmp_path: Path
) -> None:
    """Images in a bucket; a study of the same images in a folder, in this process, has the same losses."""
    study = tmp_path / "study.yaml"
    write_own_backbone(tmp_path)
    study.write_text(
        yaml.safe_dump(
            tiny_settings(
                data={"name": "image_folder", "limit": None, "test_limit": None},
                backbones={"backbone": f"{OWN_MODULE}:build", "trials": 2, "epochs": 1, "scheduler": {"kind": "none"}},
                exits={"trials": 1, "head": "linear"},
                operating_points={"trials": 5, "networks": 1},
            )
        )
    )
    caches = {name: tmp_path / "caches" / name for name in ("driver", "head", "node")}

    def of(name: str) -> dict[str, str]:
        return {"PREDICTIVE_EXIT_CACHE": str(caches[name])}

    with (
        s3.faulty({}) as line,
        pytest.MonkeyPatch.context() as patch,
    ):
        bucket = location(line.uri("pets"))
        for path in pets.rglob("*.png"):
            (bucket / path.relative_to(pets).as_posix()).write_bytes(path.read_bytes())
        line.requests.clear()
        patch.setenv("PREDICTIVE_EXIT_CACHE", str(caches["head"]))
        run = ("run", study, "--storage", "runs", "--no-report")
        with (
            cluster("--num-cpus=1") as head,
            head.node("--num-cpus=1", environment=of("node")) as node,
            started(
                tmp_path,
                *(*run, "--name", "bucket", "--folder", str(bucket), "--address", head.address),
                **{**CREDENTIALS, **of("driver")},
            ) as command,
        ):
            wait_for_trials_on(command, [head.head, node], tmp_path / "runs" / "bucket")
            assert command.wait() == 0, command.err
        assert "sent through Ray" not in command.err
    entries = {cache: entries_of(folder) for cache, folder in caches.items()}
    assert entries["driver"] == entries["head"] == entries["node"] and len(entries["node"]) == 4
    read = [request for request in line.requests if request.startswith("GET") and "list-type" not in request]
    assert len(read) == 3 * IMAGES, "the driver and each node read each object once, whatever the number of workers"
    with started(tmp_path, *run, "--name", "folder", "--folder", str(pets), "--local", **of("driver")) as command:
        assert command.wait() == 0, command.err
    assert entries["driver"] == entries_of(caches["driver"]), "images of equal bytes have one entry"
    assert digest_of(tmp_path / "runs" / "bucket") == digest_of(tmp_path / "runs" / "folder")
    assert set(read_table(tmp_path / "runs" / "bucket" / "tables", "trials")["status"]) == {"finished"}
    pd.testing.assert_series_equal(*(epochs_of(tmp_path / "runs" / name) for name in ("bucket", "folder")))


def wait_for_trials_on(command: Command, nodes: list[Node], run_folder: Path) -> None:
    """Wait until each node has a trial at work."""
    frozen: dict[str, psutil.Process] = {}

    def all_are_at_work() -> bool:
        for node in nodes:
            for worker in node.workers_on(run_folder).values():
                if node.host not in frozen:
                    worker.suspend()  # it could train all trials before the other node's worker has started
                    frozen[node.host] = worker
        return len(frozen) == len(nodes)

    command.wait_until(all_are_at_work)
    for worker in frozen.values():
        worker.resume()


def entries_of(cache: Path) -> set[str]:
    return {path.name for path in (cache / "pixels").iterdir()}


def digest_of(folder: Path) -> str:
    """The digest of the images that a study was trained on."""
    return str(yaml.safe_load((folder / "study.yaml").read_text())["provenance"]["data_digest"])


def epochs_of(folder: Path) -> pd.Series[float]:
    table = read_table(folder / "tables", "epochs")
    scores: pd.Series[float] = table.sort_values(["trial_id", "epoch"])["train_loss"].reset_index(drop=True)
    return scores


@pytest.mark.parametrize("place", ["a folder", "s3://study/pets"])
def test_images_that_a_node_cannot_read_are_sent_or_the_store_is_named(
    pets: Path, monkeypatch: pytest.MonkeyPatch, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_dataset(DataSettings(name="image_folder", folder=str(pets), image_size=8), pets)
    assert data.train.origin is not None
    images = replace(data.train, origin=replace(data.train.origin, settings=DataSettings(folder=place)))
    monkeypatch.setattr(ray_executor, "node_without_images", lambda *_: "node 10.0.0.2: it is not there")
    executor = ray_executor.RayExecutor(ResourcesSpec(), "10.0.0.1:6379")
    if place == "a folder":
        assert not executor._nodes_read([images], Reporter())
        assert "images are sent through Ray: not all nodes read them from a folder" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match=r"^node 10\.0\.0\.2: it is not there; all nodes read the images there"):
            executor._nodes_read([images], Reporter())
    assert ray_executor.RayExecutor(ResourcesSpec())._nodes_read([images], None), "workers of this machine"


def test_a_node_is_asked_once_for_each_entry_and_a_new_node_too(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process."""
    settings = DataSettings(name="image_folder", folder=str(pets), image_size=8)
    first, second = load_dataset(settings, pets).train.origin, load_test_set(settings, pets).origin
    assert first is not None and second is not None
    asked: list[tuple[str, list[str]]] = []
    head, late = "a" * 56, "b" * 56  # identifiers as Ray writes them
    alive = [head]

    def task(function: Callable[[Sequence[Origin]], str], scheduling_strategy: Any) -> SimpleNamespace:
        def remote(origins: Sequence[Origin]) -> str:
            asked.append((scheduling_strategy.node_id, [one.entry for one in origins]))
            return function(origins)

        return SimpleNamespace(remote=remote)

    def nodes() -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "NodeManagerAddress": name, "Resources": {"CPU": 2}} for name in alive]

    monkeypatch.setattr(
        ray_nodes.ray, "remote", lambda **_: lambda function: SimpleNamespace(options=partial(task, function))
    )
    monkeypatch.setattr(ray_nodes.ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray_nodes.ray, "nodes", nodes)
    cached: set[tuple[str, str]] = set()
    for origins in ([first], [first, second], [second]):
        assert ray_nodes.node_without_images(origins, ResourcesSpec(), cached) == ""
    assert asked == [(head, [first.entry]), (head, [second.entry])]
    alive.append(late)
    absent = replace(second, entry="other", settings=replace(second.settings, folder=str(pets / "gone")))
    assert ray_nodes.node_without_images([first, second], ResourcesSpec(), cached) == ""
    assert asked[2:] == [(late, [first.entry, second.entry])]
    assert ray_nodes.node_without_images([absent], ResourcesSpec(), cached).startswith(f"node {head}: ")
    assert (head, "other") not in cached
