"""The templates of docs/cluster and the commands of docs/cluster.md: whole, safe to repeat, open to nobody."""

from __future__ import annotations

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from search_spaces.spec import parse_change
from search_spaces.study_files import load_space
from study.cli.main import build_parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RAY_UP = DOCS / "cluster" / "ray-up.yaml"
RAY_JOB = DOCS / "cluster" / "rayjob.yaml"
PAGE = DOCS / "cluster.md"

# Of KubeRay 1.5.1's custom resources, as far as a template may use them.
JOB_FIELDS = {
    *("activeDeadlineSeconds", "backoffLimit", "entrypoint", "entrypointNumCpus", "entrypointNumGpus"),
    *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
    *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
}
CLUSTER_FIELDS = {"authOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
HEAD_FIELDS = {"enableIngress", "rayStartParams", "serviceType", "template"}
WORKER_FIELDS = {"groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "template"}


def text_of(path: Path) -> str:
    """Comments and prose without their marks, continued lines joined."""
    lines = [line.strip().removeprefix("#").strip() for line in path.read_text("utf-8").splitlines()]
    return re.sub(r"\\\n\s*", " ", "\n".join(lines))


def commands_of(text: str) -> list[list[str]]:
    """Every `predictive-exit run ...` that stands on a line of its own or behind `ray job submit ... --`."""
    found = re.findall(r"^(?:ray job submit\b.* -- )?(predictive-exit run .*)$", text, re.MULTILINE)
    return [shlex.split(command, comments=True) for command in found]


def ray_job() -> tuple[dict[str, Any], dict[str, Any]]:
    """The volume claim and the job."""
    claim, job = yaml.safe_load_all(RAY_JOB.read_text("utf-8"))
    return claim, job


def check_command(arguments: list[str]) -> None:
    """It parses, its study is one with these changes, and giving it again goes on where it stopped."""
    assert arguments[0] == "predictive-exit"
    options = build_parser().parse_args(arguments[1:])
    if not options.space.endswith(".yaml"):  # a file of the reader's own is not here
        load_space(options.space, [parse_change(text) for text in options.set])
    assert not any(mark in word for word in arguments for mark in ("$", "`", ";", "|", "&", ">")), "the same each time"


def ray_requirement() -> Requirement:
    """What this project asks of Ray."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return next(wanted for wanted in map(Requirement, project["dependencies"]) if wanted.name == "ray")


# The RayJob


def pod_templates(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    yield spec["submitterPodTemplate"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def check_job(job: dict[str, Any], claim: dict[str, Any]) -> None:
    """Raise where the RayJob is wrong, unsafe, or not safe to repeat."""
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    for section, known in (
        (spec, JOB_FIELDS),
        (cluster, CLUSTER_FIELDS),
        (cluster["headGroupSpec"], HEAD_FIELDS),
        *((group, WORKER_FIELDS) for group in cluster["workerGroupSpecs"]),
    ):
        assert set(section) <= known, f"no such field: {set(section) - known}"
    check_command(shlex.split(spec["entrypoint"]))
    options = build_parser().parse_args(shlex.split(spec["entrypoint"])[1:])
    assert options.address == "auto"
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP" and not cluster["headGroupSpec"]["enableIngress"]
    assert cluster["rayVersion"] in ray_requirement().specifier
    assert all(isinstance(value, str) for group in groups(cluster) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for template in pod_templates(job):
        check_pod(template["spec"], cluster["rayVersion"])
    for group in groups(cluster):
        check_storage(group["template"]["spec"], options.storage, claim)
    first = cluster["workerGroupSpecs"][0]
    limits = first["template"]["spec"]["containers"][0]["resources"]["limits"]
    asked = load_space(options.space, [parse_change(text) for text in options.set]).resources
    assert first["minReplicas"] > 0, "a study is refused while no node could hold a trial"
    assert float(limits["cpu"]) >= asked.cpus_per_trial and float(limits["nvidia.com/gpu"]) >= asked.gpus_per_trial


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def check_pod(spec: dict[str, Any], ray_version: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False
    assert not any(spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC"))
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    assert not any("hostPath" in volume for volume in spec.get("volumes", []))
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False and not security.get("privileged")
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].endswith(f":ray-{ray_version}"), "the image's Ray is the cluster's"
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def check_storage(spec: dict[str, Any], storage: str, claim: dict[str, Any]) -> None:
    """The storage lies on the volume that all pods share."""
    claimed = {
        volume["name"]
        for volume in spec["volumes"]
        if volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    }
    mounts = spec["containers"][0]["volumeMounts"]
    assert any(mount["name"] in claimed and Path(storage).is_relative_to(mount["mountPath"]) for mount in mounts)


def test_the_ray_job() -> None:
    claim, job = ray_job()
    kubernetes_validate.validate(claim, "1.37", strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    check_job(job, claim)


def _worker(job: dict[str, Any]) -> Any:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(entryPoint="predictive-exit run cifar10"),
        lambda job: job["spec"].update(entrypoint="predictive-exit run cifar10 --adress auto"),
        lambda job: job["spec"].update(entrypoint="predictive-exit run cifar10 --address auto --name run-$(date)"),
        lambda job: job["spec"].update(entrypoint="predictive-exit run cifar10 --address auto --storage /tmp/runs"),
        lambda job: job["spec"].update(entrypoint="predictive-exit run cifar10 --address auto --set backbones.epoch=1"),
        lambda job: job["spec"].update(shutdownAfterJobFinishes=False),
        lambda job: job["spec"]["rayClusterSpec"].update(rayVersion="2.40.0"),
        lambda job: job["spec"]["rayClusterSpec"].pop("authOptions"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(serviceType="LoadBalancer"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(minReplicas=0),
        lambda job: _worker(job).update(hostNetwork=True),
        lambda job: _worker(job).update(volumes=[{"name": "study", "hostPath": {"path": "/"}}]),
        lambda job: _worker(job)["containers"][0].update(volumeMount=[]),
        lambda job: _worker(job)["containers"][0]["volumeMounts"][0].update(name="other"),
        lambda job: _worker(job)["containers"][0]["securityContext"].update(privileged=True),
        lambda job: _worker(job)["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": "0"}),
    ],
)
def test_a_spoiled_ray_job_is_found(spoil: Callable[[dict[str, Any]], object]) -> None:
    claim, job = ray_job()
    job = json.loads(json.dumps(job))  # no part is shared by an alias
    spoil(job)
    with pytest.raises((AssertionError, ValueError, KeyError, SystemExit, kubernetes_validate.ValidationError)):
        check_job(job, claim)


# ray up


def check_ray_up(config: dict[str, Any]) -> None:
    """Raise where the template of `ray up` is wrong, open to the world, or not safe to repeat."""
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(copy.deepcopy(config)))
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    workers = [node for name, node in types.items() if name != config["head_node_type"]]
    assert head["max_workers"] == 0 and head["resources"]["CPU"] == 0, "the head trains nothing"
    assert any(node["min_workers"] > 0 and node["resources"].get("GPU") for node in workers)
    assert all(node["node_config"]["SecurityGroupIds"] for node in types.values()), "else port 22 is open to the world"
    assert "security_group" not in config["provider"]
    assert "0.0.0.0" not in json.dumps(config)
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [command for command in starts if "ray start" in command]
    assert len(started) == 2 and all("RAY_AUTH_MODE=token ray start" in command for command in started)
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "/home/ubuntu/.ray/auth_token" in config["file_mounts"]
    for command in config["setup_commands"]:
        if ">>" in command or "mount " in command or "-m venv" in command:
            assert "||" in command, f"does its work twice when given again: {command}"
    assert any(f"ray[default]{pin}" in command for command in config["setup_commands"] for pin in pinned_ray())


def pinned_ray() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = map(Requirement, project["optional-dependencies"]["pinned"])
    return [str(wanted.specifier) for wanted in pins if wanted.name == "ray"]


def test_the_template_of_ray_up() -> None:
    check_ray_up(yaml.safe_load(RAY_UP.read_text("utf-8")))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config.update(worker_nodes={}),
        lambda config: config["available_node_types"]["gpu"].pop("resources"),
        lambda config: config["available_node_types"]["gpu"].update(min_workers=9),
        lambda config: config["available_node_types"]["gpu"]["node_config"].pop("SecurityGroupIds"),
        lambda config: config["head_start_ray_commands"].append("ray start --head --dashboard-host=0.0.0.0"),
        lambda config: config["setup_commands"].append("echo 'export A=1' >> ~/.bashrc"),
        lambda config: config["setup_commands"].pop(3),
        lambda config: config["file_mounts"].pop("/home/ubuntu/.ray/auth_token"),
    ],
)
def test_a_spoiled_template_of_ray_up_is_found(spoil: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads(json.dumps(yaml.safe_load(RAY_UP.read_text("utf-8"))))
    spoil(config)
    with pytest.raises((AssertionError, ValueError, KeyError, jsonschema.ValidationError)):
        check_ray_up(config)


# Commands, secrets


@pytest.mark.parametrize("path", [RAY_UP, PAGE], ids=lambda path: path.name)
def test_the_commands_parse_and_can_be_given_again(path: Path) -> None:
    commands = commands_of(text_of(path))
    assert commands
    for command in commands:
        check_command(command)


def test_the_page_names_the_templates_and_the_version_of_ray() -> None:
    page = PAGE.read_text("utf-8")
    for path in (RAY_UP, RAY_JOB):
        assert f"(cluster/{path.name})" in page
    images = re.findall(r"^FROM rayproject/ray:(\S+?)-py", page, re.MULTILINE)
    assert images and all(version in ray_requirement().specifier for version in images)


@pytest.mark.parametrize("path", [RAY_UP, RAY_JOB, PAGE], ids=lambda path: path.name)
def test_no_secret_stands_in_them(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret_access_key|[0-9a-f]{64}|-----BEGIN|(?i:password)\s*[:=]", text)
    assert not re.search(r"RAY_AUTH_TOKEN=(?!\$)\S", text)
