"""Study files: defaults, mistakes told in one line, and draws that a longer study repeats."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from support.laws import examples

from search_spaces import Choice, SpecError, bundled, load_space
from search_spaces.choices import draw, parse_choice
from search_spaces.spec import OperatingPointsSpec, StopSpec, parse_space, validate_space
from search_spaces.strict_yaml import MAX_FILE_BYTES
from study.errors import UserError
from study.run.plan import resolve_names


def test_every_bundled_study_loads_and_survives_a_way_through_yaml():
    assert "quickstart" in bundled()
    for name in bundled():
        spec = load_space(name)
        for phase in ("backbones", "exits"):
            section = getattr(spec, phase)
            assert draw(spec.choices(phase), section.trials, spec.seed)
        again = validate_space(yaml.safe_load(yaml.safe_dump(spec.plain())), "again")
        assert again.plain() == spec.plain()
        assert again == spec


def test_a_name_is_a_whole_study():
    spec = parse_space("name: mine", "mine.yaml")
    assert (spec.seed, spec.data.name, spec.backbones.mode) == (0, "digits", "original")
    assert spec.exits.mode == Choice(values=("exits",)) and spec.plain()["exits"]["mode"] == "exits"
    assert spec.operating_points.objectives == ["accuracy", "flops", "energy"]
    assert spec.operating_points.beta == "auto" and spec.operating_points.start_layer == "auto"
    assert spec.choices("backbones")["backbone"] == Choice(values=("vgg19",))
    assert set(spec.choices("exits")) - set(spec.choices("backbones")) >= {"head", "codewords", "sharing"}


def test_all_forms_of_a_choice_survive_a_way_through_plain_values():
    text = """
    name: mine
    backbones: {learning_rate: {low: 1e-5, high: 0.1, log: true}, width: [0.25, 1], batch_size: 64, optimizer: sgd}
    exits: {codewords: {low: 4, high: 64, log: true}, trials: grid, head: [bof, conv], mode: [joint, exits]}
    operating_points: {beta: {low: 1, high: 30.5}, start_layer: [1, 4], placements: [[1, 3], [2]], policy: placed}
    """
    spec = parse_space(text, "mine.yaml")
    assert spec.backbones.learning_rate == Choice(low=1e-5, high=0.1, log=True)
    assert spec.backbones.width.values == (0.25, 1.0) and spec.exits.codewords.integer
    assert spec.operating_points.placements == [[1, 3], [2]]
    again = validate_space(spec.plain(), "again")
    assert again.plain() == spec.plain()
    assert again == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search: exact", {"search": "exact"}),
        ("beta: per_exit", {"beta": "per_exit"}),
        ("criterion: margin", {"criterion": Choice(values=("margin",))}),
        ("criterion: [patience, logit]", {"criterion": Choice(values=("patience", "logit"))}),
        ("stop: {hypervolume_ratio: 0.99}", {"stop": StopSpec(hypervolume_ratio=0.99)}),
        ("stop: {hypervolume_ratio: 1, plateau: 3}", {"stop": StopSpec(hypervolume_ratio=1.0, plateau=3)}),
        ("stop: {plateau: null}", {"stop": StopSpec()}),
        ("stop: {}", {}),
    ],
)
def test_how_phase_2_searches_and_stops_survives_a_way_through_plain_values(text, expected):
    """Without these keys: Optuna, all trials, the paper's criterion."""
    usual = {"search": "optuna", "stop": StopSpec(), "criterion": Choice(values=("logit",)), "beta": "auto"}
    assert usual == {name: getattr(parse_space("name: x", "x").operating_points, name) for name in usual}
    spec = parse_space(f"name: x\noperating_points: {{{text}}}", "x.yaml")
    assert {name: getattr(spec.operating_points, name) for name in usual} == usual | expected
    again = validate_space(yaml.safe_load(yaml.safe_dump(spec.plain())), "again")
    assert again == spec and again.plain() == spec.plain()


def test_a_change_reaches_a_key_of_the_section_stop():
    changes = [("operating_points.stop.plateau", 4), ("operating_points.beta", "per_exit")]
    points = parse_space("name: x\noperating_points: {stop: {hypervolume_ratio: 0.9}}", "x", changes).operating_points
    assert (points.stop.plateau, points.stop.hypervolume_ratio, points.beta) == (4, 0.9, "per_exit")
    assert parse_space("name: x", "x", changes).operating_points.stop == StopSpec(plateau=4)


MISTAKES = [
    ("name: x\nsede: 1", "sede: unknown key"),
    ("name: x\nbackbones: {learning: 1}", r"backbones\.learning: unknown key"),
    ("seed: 1", "name: this key is required"),
    ("name: x\nseed: one", "seed: .*one"),
    ("name: x\nseed: -1", "seed: "),
    ("name: x\ndata: 3", "data: "),
    ("name: x\ndata: {calibration: 1.5}", r"data\.calibration: .*1\.5"),
    ("name: x\ndata: {channels: 2}", r"data\.channels: .*2"),
    ("name: x\nbackbones: {epochs: 0}", r"backbones\.epochs: .*0"),
    ("name: x\nbackbones: {trials: 0}", "backbones.trials: expected a number of trials from 1"),
    ("name: x\nbackbones: {trials: many}", r"backbones\.trials.*many"),
    ("name: x\nbackbones: {mode: joint}", r"backbones\.mode: .*joint"),
    ("name: x\nbackbones: {mode: [normal, original]}", r"backbones\.mode: .*normal"),
    ("name: x\nexits: {mode: bogus}", r"exits\.mode: expected exits, joint or a list of both, got 'bogus'"),
    ("name: x\nexits: {mode: [joint, original]}", r"exits\.mode: expected exits, joint .*'original'"),
    ("name: x\nexits: {mode: [joint, joint]}", r"exits\.mode: .*twice"),
    ("name: x\nexits: {mode: []}", r"exits\.mode: the list of choices is empty"),
    ("name: x\nexits: {mode: {low: 1, high: 2}}", r"exits\.mode: names cannot form a range"),
    ("name: x\nbackbones: {scheduler: {kind: hyperband}}", r"backbones\.scheduler\.kind: .*hyperband"),
    ("name: x\nbackbones: {width: []}", r"backbones\.width: the list of choices is empty"),
    ("name: x\nbackbones: {width: [1, 1.0]}", r"backbones\.width: .*twice"),
    ("name: x\nbackbones: {width: true}", r"backbones\.width: expected no truth value"),
    ("name: x\nbackbones: {batch_size: 2.5}", r"backbones\.batch_size: expected a whole number.*2\.5"),
    ("name: x\nbackbones: {backbone: 19}", r"backbones\.backbone: expected a name.*19"),
    ("name: x\nbackbones: {backbone: {low: 1, high: 2}}", r"backbones\.backbone: names cannot form a range"),
    ("name: x\nbackbones: {width: {low: 1, high: 1}}", r"backbones\.width: the range is empty"),
    ("name: x\nbackbones: {width: {low: 2, high: 1}}", r"backbones\.width: the range is empty"),
    ("name: x\nbackbones: {width: {low: 2}}", r"backbones\.width: a range has the keys low, high and log"),
    ("name: x\nbackbones: {width: {low: 1, hihg: 2}}", r"backbones\.width: a range has the keys"),
    ("name: x\nbackbones: {width: {low: 0, high: 1, log: true}}", r"backbones\.width: .*low above 0"),
    ("name: x\nbackbones: {width: {low: 1, high: 2, log: 3}}", r"backbones\.width: log must be true or false"),
    ("name: x\nbackbones: {width: .nan}", r"backbones\.width: "),
    ("name: x\nbackbones: {batch_size: .nan}", r"backbones\.batch_size: "),
    ("name: x\nbackbones: {batch_size: .inf}", r"backbones\.batch_size: "),
    (f"name: x\nbackbones: {{width: {'9' * 400}}}", r"backbones\.width: "),
    ("name: x\noperating_points: {beta: fast}", r"operating_points\.beta: .*fast"),
    ("name: x\noperating_points: {objectives: [accuracy]}", "operating_points: objectives must be"),
    ("name: x\noperating_points: {objectives: [accuracy, speed]}", r"operating_points\.objectives\.1: .*speed"),
    ("name: x\noperating_points: {objectives: [accuracy, flops, flops]}", "operating_points: objectives .*twice"),
    ("name: x\noperating_points: {placements: []}", r"operating_points\.placements"),
    ("name: x\noperating_points: {placements: [[]]}", r"operating_points\.placements"),
    ("name: x\noperating_points: {search: exactly}", r"operating_points\.search: .*exactly"),
    ("name: x\noperating_points: {beta: per_network}", r"operating_points\.beta: .*per_network"),
    ("name: x\noperating_points: {beta: [per_exit]}", r"operating_points\.beta: expected a number.*per_exit"),
    ("name: x\noperating_points: {start_layer: per_exit}", r"operating_points\.start_layer: .*per_exit"),
    ("name: x\noperating_points: {beta: [1, 0]}", "operating_points: beta must be above 0, got 0"),
    ("name: x\noperating_points: {criterion: []}", r"operating_points\.criterion: the list of choices is empty"),
    ("name: x\noperating_points: {criterion: [margin, margin]}", r"operating_points\.criterion: .*twice"),
    ("name: x\noperating_points: {criterion: 3}", r"operating_points\.criterion: expected a name.*3"),
    ("name: x\noperating_points: {stop: 0.9}", r"operating_points\.stop: .*0\.9"),
    ("name: x\noperating_points: {stop: plateau}", r"operating_points\.stop: .*plateau"),
    ("name: x\noperating_points: {stop: {hypervolume: 0.9}}", r"operating_points\.stop\.hypervolume: unknown key"),
    ("name: x\noperating_points: {stop: {hypervolume_ratio: 1.01}}", r"stop\.hypervolume_ratio: .*1\.01"),
    ("name: x\noperating_points: {stop: {hypervolume_ratio: 0}}", r"stop\.hypervolume_ratio: .*0"),
    ("name: x\noperating_points: {stop: {hypervolume_ratio: .nan}}", r"stop\.hypervolume_ratio: .*nan"),
    ("name: x\noperating_points: {stop: {plateau: 0}}", r"stop\.plateau: .*0"),
    ("name: x\noperating_points: {stop: {plateau: 1.5}}", r"stop\.plateau: .*fractional part"),
    ("name: x\nname: y", "line 2: the key 'name' stands twice"),
    ("name: x\ndata: {limit: 3, limit: 4}", "line 2: the key 'limit' stands twice"),
    ("name: ../x", r"name: .*\.\./x"),
    ("name: /x", "name: "),
    ("name: .x", "name: "),
    ("name: 'x\n'", "name: "),
    ("", "a study file is a mapping"),
    ("- a", "a study file is a mapping"),
    ("just text", "a study file is a mapping"),
    ("name: [", "line 1: "),
    ("name: x\n\tseed: 1", "line 2: "),
    ("name: x\n---\nname: y", "line 2: "),
    ("name: a\0b", "not allowed"),
    ("? [a]\n: 1", "line 1: "),
    ("name: !!python/object/apply:os.system ['true']", "line 1: .*python/object"),
    ("!!python/name:os.system", "line 1: "),
    ("name: 2024-13-45", "line 1: "),
    ("name: !!int abc", "line 1: "),
    ("name: !!bool maybe", "line 1: "),
    ("name: !!timestamp never", "line 1: "),
    (f"name: x\nseed: {'9' * 5000}", "line 2: "),
    ('name: x\n"a\\nb": 1', "unknown key"),
    ("[" * 5000, "nested too deeply"),
    ("name: " + "[" * 300 + "]" * 300, "name: |nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text[:48] for text, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line_with_file_and_key(text, message):
    with pytest.raises(SpecError, match=rf"^folder/my\.yaml: .*({message})") as error:
        parse_space(text, "folder/my.yaml")
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 400


@pytest.mark.parametrize("key", ["name", "unknown", "backbones: {batch_size", "operating_points: {placements"])
def test_a_billion_laughs_end_quickly(key):
    """In a process of its own, with little memory: expanded, the aliases would take gigabytes."""
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['lol'] * 9)}]" for n in range(12)]
    text = "\n".join([*lines, f"{key}: *a11 {'}' * key.count('{')}", "name: x" * (key != "name")])
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from search_spaces.spec import SpecError, parse_space\n"
        "try:\n    parse_space(sys.stdin.read(), 'my.yaml')\n"
        "except SpecError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=8)
    assert done.returncode == 0, done.stderr.splitlines()[-1:]
    assert done.stdout.startswith("my.yaml: ") and len(done.stdout) < 1000


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    (tmp_path / "good.yaml").write_text("name: good")
    for name, message in (
        ("latin.yaml", "UTF-8"),
        ("large.yaml", "too many for a study file"),
        ("missing.yaml", "no such study file.*quickstart"),
        (".", "this is a folder, not a study file"),
    ):
        with pytest.raises(SpecError, match=message) as error:
            load_space(str(tmp_path / name))
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert load_space(str(tmp_path / "good.yaml")).name == "good"


LISTS = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True).map(
    lambda values: Choice(values=tuple(values), integer=True)
)
RANGES = st.builds(
    lambda low, span, log, integer: Choice(
        low=int(low) if integer else low, high=int(low + span) + 1 if integer else low + span, log=log, integer=integer
    ),
    *(st.floats(1e-3, 50), st.floats(1e-9, 50), st.booleans(), st.just(False)),
)
SPACES = st.dictionaries(st.sampled_from("abcd"), LISTS | RANGES, max_size=4)


@examples(40)
@given(SPACES, st.integers(1, 12), st.integers(0, 5))
def test_a_longer_draw_starts_with_the_shorter_one(choices, count, seed):
    shorter, longer = draw(choices, count, seed), draw(choices, count + 1, seed)
    assert longer[: len(shorter)] == shorter and len(longer) - len(shorter) <= 1
    keys = [tuple(sorted(setting.items())) for setting in longer]
    assert len(set(keys)) == len(keys) <= count + 1


@examples(40)
@given(SPACES, st.integers(0, 5))
@example({"a": Choice(low=0.12345678, high=0.12345679)}, 0)
def test_what_is_drawn_lies_in_its_range(choices, seed):
    for setting in draw(choices, 5, seed):
        assert setting.keys() == choices.keys()
        for name, value in setting.items():
            choice = choices[name]
            assert choice.low <= value <= choice.high if choice.is_range else value in choice.values


def test_integer_ranges_reach_both_ends_and_stay_whole():
    for log in (False, True):
        choice = parse_choice({"low": 2, "high": 5, "log": log}, "integer")
        values = {choice.sample(np.random.default_rng(seed)) for seed in range(200)}
        assert values == {2, 3, 4, 5} and all(type(value) is int for value in values)


def test_a_grid_is_complete_and_a_small_space_ends():
    choices = {name: parse_choice(values, "integer") for name, values in (("a", [1, 2, 3]), ("b", [5, 7]), ("c", 9))}
    expected = {(a, b, 9) for a, b in itertools.product([1, 2, 3], [5, 7])}
    for trials in ("grid", 50):
        found = [tuple(setting[name] for name in "abc") for setting in draw(choices, trials, 3)]
        assert set(found) == expected and len(found) == 6
    assert draw({}, 5, 0) == [{}]
    with pytest.raises(ValueError, match="grid needs lists, but d is a range"):
        draw({**choices, "d": parse_choice({"low": 1, "high": 2}, "number")}, "grid", 0)


def test_seeds_draw_differently():
    choices = {"a": parse_choice({"low": 1e-4, "high": 1, "log": True}, "number")}
    assert draw(choices, 5, 1) != draw(choices, 5, 2)
    values = [setting["a"] for setting in draw(choices, 400, 1)]
    assert 0.4 < np.mean(np.array(values) < 1e-2) < 0.6, "uniform in the logarithm"


def test_schemas_know_nothing_of_the_program():
    code = "import sys, search_spaces; print([m for m in ('study', 'results', 'torch', 'ray') if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_study_of_a_run_folder_can_be_done_again(tmp_path: Path) -> None:
    spec = load_space("quickstart")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"study": spec.plain(), "provenance": {"created": "2026-01-01"}}))
    assert load_space(str(path)) == spec
    assert load_space(str(path), [("seed", 5)]).seed == 5
    for text, message in (
        ("study: 3\nprovenance: {}\n", "a study file is a mapping of keys, but this is int"),
        ("study: {study: {name: x}, provenance: {}}\nprovenance: {}\n", "name: this key is required"),
    ):
        path.write_text(text)
        with pytest.raises(SpecError, match=message):
            load_space(str(path))


def test_paths_may_start_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "name: mine\nbackbones: {pretrained: ~/w.pt}\noperating_points: {costs: ~/device.yaml}"
    (tmp_path / "mine.yaml").write_text(text)
    spec = load_space("~/mine.yaml")
    with pytest.raises(UserError, match=f"backbones.pretrained: {tmp_path}/w.pt does not exist"):
        resolve_names(spec.model_copy(update={"operating_points": OperatingPointsSpec()}))
    with pytest.raises(UserError, match=f"{tmp_path}/device.yaml: no such device table"):
        resolve_names(spec)
    with pytest.raises(SpecError, match=r"~nobody-here/x\.yaml: .*home"):
        load_space("~nobody-here/x.yaml")
    with pytest.raises(UserError, match=r"~nobody-here/w\.pt: ~nobody-here stands for a home folder that is not known"):
        resolve_names(parse_space("name: x\nbackbones: {pretrained: ~nobody-here/w.pt}", "x.yaml"))


def test_what_is_quoted_is_a_text():
    assert parse_space("name: '2024_01'", "x").name == "2024_01"
    assert parse_space("name: x\ndata: {folder: 'a\N{NO-BREAK SPACE}b'}", "x").data.model_dump()["folder"] is not None
    assert parse_space("name: x\nseed: 0\nbackbones: {learning_rate: 1.0e-3, width: 0.5}", "x").seed == 0
