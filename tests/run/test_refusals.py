"""What a study is refused for before any work, and whom a run folder belongs to."""

import pytest
import yaml

from search_spaces import SpecError
from search_spaces.spec import parse_space
from study.errors import UserError
from study.progress import Reporter
from study.run.folder import claim_folder, refuse_other_study
from study.run.plan import RunContext, resolve_names
from study.run.run import run_study
from study.storage.locks import exclusive

REFUSED = [
    ("backbones: {backbone: vgg99}", "unknown backbone 'vgg99'"),
    ("backbones: {backbone: [vgg11, resnet7]}", "unknown backbone 'resnet7'"),
    ("backbones: {optimizer: lion}", "optimizer: must be adam, adamw, sgd or muon, got 'lion'"),
    ("exits: {optimizer: [adam, lion]}", "optimizer: must be adam, adamw, sgd or muon, got 'lion'"),
    ("exits: {schedule: step}", "schedule: must be constant or cosine, got 'step'"),
    ("exits: {head: fog}", "head: must be bof, .* got 'fog'"),
    ("exits: {sharing: all}", "sharing: must be paper or none, got 'all'"),
    ("exits: {codewords: 0}", "codewords: must be a whole number from 1 to 65536"),
    ("backbones: {width: -1}", "width: must be a number above 0, got -1"),
    ("backbones: {learning_rate: -1}", "learning_rate: must be a number above 0, got -1"),
    ("backbones: {trials: grid, width: {low: 0.1, high: 1}}", "grid needs lists"),
    ("data: {name: mnist1d}", "unknown data set 'mnist1d'"),
    ("data: {image_size: 8}", "image"),
    ("data: {calibration: 0.6, validation: 0.6}", "leave nothing"),
    ("data: {folder: pictures}", "folder is for the data set image_folder"),
    ("data: {name: image_folder}", "image_folder"),
    ("operating_points: {policy: [predictive, psychic]}", "policy: 'psychic' is unknown"),
    ("operating_points: {statistic: median}", "statistic: 'median' is unknown"),
    ("operating_points: {overshoot: far}", "overshoot: 'far' is unknown"),
    ("operating_points: {quantization: int3}", "quantization: 'int3' is unknown"),
    ("backbones: {pretrained: w.pt, width: [0.5, 1], trials: grid}", "needs one backbone"),
    ("operating_points: {criterion: [margin, hunch]}", "criterion: 'hunch' is unknown"),
    ("operating_points: {criterion: oracle}", "criterion: 'oracle' is unknown"),
    ("operating_points: {search: exact, beta: per_exit}", "search: exact does not cover this space: beta: per_exit"),
    ("operating_points: {search: exact, policy: placed}", "search: exact does not cover this space: placements: auto"),
    ("operating_points: {policy: placed, stop: {hypervolume_ratio: 0.9}}", r"no hypervolume_ratio \(placements: auto"),
    ("operating_points: {beta: per_exit, stop: {hypervolume_ratio: 0.9}}", r"no hypervolume_ratio \(beta: per_exit"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text for text, _ in REFUSED])
def test_names_that_do_not_exist_are_refused_before_any_work(tmp_path, text, message):
    where = RunContext(folder=tmp_path / "run", data_root=tmp_path / "data", reporter=Reporter(quiet=True))
    with pytest.raises((UserError, SpecError), match=message) as error:
        run_study(parse_space(f"name: x\n{text}", "x.yaml"), where)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_study_that_can_run_passes():
    spec = parse_space("name: x\nbackbones: {backbone: [vgg11, resnet18], trials: grid, width: 0.125}", "x.yaml")
    (settings,), *_ = resolve_names(spec)
    assert settings.name == "digits" and settings.image_size == 32


def test_a_run_folder_holds_one_study(tmp_path):
    spec = parse_space("name: x\nbackbones: {width: [0.25, 0.5], learning_rate: 1e-5}", "x.yaml")
    refuse_other_study(spec.plain(), tmp_path / "run")
    claim_folder(spec.plain(), tmp_path / "run", {"digits": "d1"})
    text = (tmp_path / "run" / "study.yaml").read_text()
    stored = yaml.safe_load(text)
    assert stored["study"] == spec.plain() and {"created", "versions"} <= stored["provenance"].keys()
    refuse_other_study(parse_space(yaml.safe_dump(stored["study"]), "again").plain(), tmp_path / "run")
    for changed, message in (
        (
            "name: x\nbackbones: {width: [0.25, 0.5], learning_rate: 1e-4}",
            r"backbones\.learning_rate is 1e-05.*0\.0001",
        ),
        (
            "name: x\nbackbones: {width: 0.25, learning_rate: 1e-5}",
            r"backbones\.width is \[0\.25, 0\.5\] there and 0\.25",
        ),
        ("name: x\nseed: 3\nbackbones: {width: [0.25, 0.5], learning_rate: 1e-5}", "seed is 0 there and 3 here"),
    ):
        with pytest.raises(UserError, match=message) as error:
            refuse_other_study(parse_space(changed, "x.yaml").plain(), tmp_path / "run")
        assert "\n" not in str(error.value) and "study.yaml" in str(error.value)
    claim_folder(spec.plain(), tmp_path / "run", {"digits": "d1"})
    assert (tmp_path / "run" / "study.yaml").read_text() == text, "nothing was written"
    with pytest.raises(UserError, match="holds results of other images"):
        claim_folder(spec.plain(), tmp_path / "run", {"digits": "d2"})
    free = "name: x\nresources: {cpus_per_trial: 2}\nbackbones: {width: [0.25, 0.5], learning_rate: 1e-5}"
    refuse_other_study(parse_space(free, "x.yaml").plain(), tmp_path / "run")  # what a trial may use decides no result


def test_a_run_folder_has_one_driver_at_a_time(tmp_path):
    refused = pytest.raises(UserError, match="run: another process works on it")
    lock = tmp_path / "run" / ".lock"
    with exclusive(lock, "run"), refused, exclusive(lock, "run"):
        pass
    with exclusive(lock, "run"):
        pass
