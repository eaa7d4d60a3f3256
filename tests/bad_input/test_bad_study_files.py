"""Study files that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.corpus import Case, Workplace, each, nothing


def bad(id: str, why: str, arrange: Callable[[Workplace], object], *told: str) -> Case:
    return Case(id, why, arrange, "run study.yaml", told)


def text(id: str, why: str, content: str | bytes, *told: str) -> Case:
    return bad(id, why, lambda place: place.write("study.yaml", content), *told)


def study(id: str, why: str, keys: str, *told: str) -> Case:
    """A study that is good but for these keys."""
    return text(id, why, f"name: fine\n{keys}\n", *told)


def backbones(id: str, why: str, keys: str, *told: str) -> Case:
    return study(id, why, f"backbones: {{backbone: vgg11, width: 0.125, {keys}}}", *told)


def points(id: str, why: str, keys: str, *told: str) -> Case:
    return study(id, why, f"operating_points: {{{keys}}}", *told)


def sparse(place: Workplace) -> None:
    place.write("study.yaml", "name: fine\n")
    os.truncate(place / "study.yaml", 2**40)


def folder(place: Workplace) -> None:
    (place / "study.yaml").mkdir()


def pipe(place: Workplace) -> None:
    os.mkfifo(place / "study.yaml")


def laughs(key: str) -> str:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['lol'] * 9)}]" for n in range(12)]
    return "\n".join([*lines, f"{key}: *a11", "name: fine"])


def grid(dimensions: int) -> str:
    """A grid of 100 values in each dimension."""
    names = ("learning_rate", "weight_decay", "momentum", "label_smoothing", "warmup_epochs")
    values = [number / 1000 for number in range(1, 101)]
    return ", ".join(["trials: grid", *(f"{name}: {values}" for name in names[:dimensions])])


HERE = "study.yaml: "
FILES = [
    bad("missing", "there is no such file", nothing, "study.yaml: no such study file", "quickstart"),
    bad("folder", "a folder in place of a file", folder, "study.yaml", "folder"),
    bad("pipe", "a pipe, whose reading would wait for ever", pipe, "study.yaml", "no regular file"),
    text("empty", "nothing in it", "", HERE, "mapping of keys"),
    text("comments-only", "nothing but a comment", "# later\n", HERE, "mapping of keys"),
    text("list", "a list at the top level", "- name: fine\n", HERE, "mapping of keys", "list"),
    text("scalar", "one word", "quickstart", HERE, "mapping of keys", "str"),
    text("truncated", "cut inside a list", "name: fine\nbackbones: {width: [0.5, ", HERE, "line 2"),
    text("truncated-text", "cut inside a quoted text", 'name: "fine', HERE, "line 1", "unexpected end"),
    text("tabs", "indented by a tab", "name: fine\ndata:\n\tname: digits\n", HERE, "line 3"),
    text("latin-1", "not UTF-8", "name: caf\xe9".encode("latin-1"), HERE, "UTF-8"),
    text("utf-16", "not UTF-8, with a byte order mark", "name: fine\n".encode("utf-16"), HERE, "UTF-8"),
    text("binary", "an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", HERE, "UTF-8"),
    text("nul", "a NUL character", "name: fi\0ne", HERE, "not allowed"),
    text("large", "2 MB of keys", "a: 1\n" * 400_000, HERE, "too many for a study file"),
    bad("terabyte", "a sparse file of a terabyte", sparse, HERE, "too many for a study file"),
    study("two-documents", "two documents", "---\nname: second", HERE, "line 2"),
    text("a-million-brackets", "10^6 nested lists", "[" * 10**6, HERE, "too many"),
    text("nested-brackets", "10^5 nested lists", "name: " + "[" * 10**5, HERE, "nested too deeply"),
    text("nested-dashes", "lists in lists by dashes", "- " * 50_000, HERE, "nested too deeply"),
    backbones("truth-value", "a truth value for a number", "epochs: yes", HERE, "epochs", "True"),
    text("laughs", "a bomb of aliases", laughs("seed"), HERE, "line 2", "aliases"),
    study("own-alias", "a list that holds itself", "seed: &a [*a]", HERE, "line 2", "aliases"),
    study("merge-alias", "a merge of an alias", "data: &d {limit: 3}\nexits:\n  <<: *d", HERE, "aliases"),
    study(
        "python-object",
        "a tag that would run a command",
        "seed: !!python/object/apply:os.system ['touch ran']",
        HERE,
        "line 2",
        "python/object",
    ),
    study("python-name", "a tag that names code", "seed: !!python/name:os.system", HERE, "python/name"),
    text("binary-tag", "bytes where a text is meant", "name: !!binary aGVsbG8=", HERE, "line 1", "binary"),
    study("set-tag", "a set", "backbones: {width: !!set {1, 2}}", HERE, "line 2", "set"),
    study("long-tag", "a tag of 50,000 letters", f"seed: !{'a' * 50_000} 1", HERE, "line 2", "tag"),
    study("long-key", "a key of 50,000 letters", f"? {'a' * 50_000}\n: 1", HERE, "unknown key"),
    study("no-date", "a date that is none", "seed: 2024-13-45", HERE, "line 2"),
    study("list-as-key", "a list as a key", "? [a]\n: 1", HERE, "line 2"),
    study("number-as-key", "a number as a key", "7: 1", HERE, "7: Keys should be strings"),
    study(
        "number-as-inner-key", "a number as a key of a section", "data: {7: 1}", HERE, "data.7: Keys should be strings"
    ),
    study("null-as-key", "nothing as a key", "data: {: 1}", HERE, "line 2", "expected"),
    study("null-section", "a section without content", "data:", HERE, "data: ", "None"),
    study("escapes", "a terminal's control codes in a key", '"\\e[2J\\e]0;x": 1', HERE, "unknown key"),
]

VALUES = [
    study(
        "unknown-key",
        "a key that nothing knows",
        "bakbones: {epochs: 3}",
        HERE,
        "bakbones: unknown key: did you mean backbones?",
    ),
    study(
        "unknown-inner-key",
        "one of a section",
        "data: {size: 3}",
        HERE,
        "data.size: unknown key: known are name, image_size, ",
    ),
    study("doubled-key", "a key that stands twice", "seed: 1\nseed: 2", HERE, "line 3", "'seed'", "twice"),
    text("no-name", "a study without a name", "seed: 1", HERE, "name: this key is required"),
    text("name-up", "a name that leads out of the folder", "name: ../../x", HERE, "name: ", "../../x"),
    text("name-absolute", "an absolute path as a name", "name: /tmp/x", HERE, "name: ", "/tmp/x"),
    text("name-long", "a name of 5,000 letters", f"name: {'x' * 5000}", HERE, "name: "),
    text("name-nul", "a NUL in the name", 'name: "a\\0b"', HERE, "name: "),
    text("name-date", "a name that YAML reads as a date", "name: 2024-01-01", HERE, "name: ", "string"),
    study("wrong-type", "a word for a number", "seed: one", HERE, "seed: ", "one"),
    study("section-type", "a number for a section", "data: 3", HERE, "data: expected a mapping", "3"),
    study("seed-negative", "a negative seed", "seed: -1", HERE, "seed: ", "-1"),
    study("seed-nan", "no number for a seed", "seed: .nan", HERE, "seed: ", "nan"),
    study("seed-huge", "a seed of 24 digits", f"seed: {'9' * 24}", HERE, "seed: ", "999"),
    study("octal", "a number that YAML reads to the base of 8", "seed: 010", HERE, "line 2", "010", "in quotes"),
    study("hours", "a number that YAML reads to the base of 60", "seed: 1:30", HERE, "line 2", "1:30", "in quotes"),
    study("hexadecimal", "a number to the base of 16", "seed: 0x10", HERE, "line 2", "0x10", "in quotes"),
    study("fraction", "a fraction to the base of 60", "data: {validation: 0:0.5}", HERE, "line 2", "in quotes"),
    text("name-number", "a name that YAML reads as a number", "name: 2024_01", HERE, "line 1", "2024_01", "in quotes"),
    study("no-break", "a no-break space before a value", "seed: \N{NO-BREAK SPACE}1", HERE, "line 2", "no-break space"),
    study("no-break-key", "a no-break space in a key", "\N{NO-BREAK SPACE}seed: 1", HERE, "line 2", "no-break space"),
    study("seed-endless", "a seed of 5,000 digits", f"seed: {'9' * 5000}", HERE, "line 2"),
    study("sexagesimal", "10^5 digits to the base of 60", f"seed: 1{':1' * 50_000}", HERE, "line 2", "in quotes"),
    study("limit-zero", "no image at all", "data: {limit: 0}", HERE, "data.limit: ", "0"),
    study("image-size-huge", "images of 10^6 pixels a side", "data: {image_size: 1000000}", "image_size"),
    study("image-size-tiny", "images too small for VGG", "data: {image_size: 8}", "vgg19", "32", "8"),
    study(
        "shares",
        "nothing left to train on",
        "data: {calibration: 0.6, validation: 0.5}",
        "calibration 0.6",
        "validation 0.5",
        "below 1",
    ),
    study("share-nan", "no number for a share", "data: {validation: .nan}", HERE, "data.validation", "nan"),
    study("data-name", "an unknown data set", "data: {name: cifar11}", "'cifar11'", "cifar10"),
    study("folder-of-digits", "a folder for a data set without", "data: {folder: x}", "folder", "digits"),
    study("no-folder", "no folder for a data set with", "data: {name: image_folder}", "--folder"),
    backbones("trials-1e12", "a number that YAML reads as text", "trials: 1e12", HERE, "trials", "1e12"),
    backbones("trials-huge", "10^12 trials", "trials: 1000000000000", HERE, "backbones.trials", "1000000000000"),
    points("points-huge", "10^12 points", "trials: 1000000000000", HERE, "operating_points.trials"),
    points("batch-huge", "a batch of 10^12", "batch: 1000000000000", HERE, "operating_points.batch"),
    backbones("grid-huge", "a grid of 10^10 trials", grid(5), "fine: backbones", "grid has 10000000000"),
    backbones(
        "grid-of-a-range",
        "a grid over a range",
        "trials: grid, learning_rate: {low: 0.1, high: 1}",
        "backbones",
        "grid needs lists",
        "learning_rate",
    ),
    backbones("epochs-huge", "10^12 epochs", "epochs: 1000000000000", HERE, "backbones.epochs", "10000"),
    backbones("epochs-nan", "no number of epochs", "epochs: .nan", HERE, "backbones.epochs", "nan"),
    backbones(
        "empty-range",
        "a range from high to low",
        "learning_rate: {low: 1, high: 0.1}",
        HERE,
        "backbones.learning_rate",
        "empty",
        "low 1",
    ),
    backbones("empty-list", "nothing to choose from", "learning_rate: []", HERE, "backbones.learning_rate", "empty"),
    backbones(
        "range-inf",
        "a range without end",
        "learning_rate: {low: 1, high: .inf}",
        HERE,
        "backbones.learning_rate",
        "inf",
    ),
    backbones(
        "log-zero", "a logarithmic range from 0", "learning_rate: {low: 0, high: 1, log: true}", HERE, "low above 0"
    ),
    backbones(
        "learning-rate-nan", "no number for a rate", "learning_rate: .nan", HERE, "backbones.learning_rate", "nan"
    ),
    backbones(
        "learning-rate-negative", "a negative rate", "learning_rate: -0.1", HERE, "learning_rate", "-0.1", "above 0"
    ),
    backbones("momentum", "a momentum of 1", "momentum: 1.0", "momentum", "below 1"),
    backbones("optimizer", "an unknown optimizer", "optimizer: lion", HERE, "optimizer", "'lion'", "adam"),
    study("backbone", "an unknown backbone", "backbones: {backbone: vgg20}", "backbone 'vgg20'", "vgg19"),
    study(
        "width-huge", "a network of 10^300 channels", "backbones: {backbone: vgg11, width: 1.0e300}", "width", "1e+300"
    ),
    study(
        "width-large",
        "a network that fits nowhere",
        "backbones: {backbone: vgg11, width: 900}",
        "width",
        "900",
        "parameters",
    ),
    study("width-zero", "a network without channels", "backbones: {backbone: vgg11, width: 0}", "width", "above 0"),
    study("codewords-huge", "10^15 codewords", "exits: {codewords: 1000000000000000}", "codewords", "1000000000000000"),
    study("mode", "an unknown mode", "exits: {mode: bogus}", HERE, "exits.mode", "'bogus'", "joint"),
    study("head", "an unknown head", "exits: {head: mlp}", "head", "'mlp'", "bof"),
    backbones("batch-size-huge", "a batch of 10^30 images", f"batch_size: 1{'0' * 30}", "batch_size"),
    backbones("batch-size-zero", "a batch of no image", "batch_size: 0", HERE, "batch_size", "from 2"),
    backbones("halving", "an unknown scheduler", "scheduler: {kind: hyperband}", HERE, "scheduler.kind", "hyperband"),
    backbones(
        "reduction-one",
        "rungs that never end",
        "scheduler: {kind: halving, reduction: 1}",
        HERE,
        "scheduler.reduction",
        "1",
    ),
    study(
        "resources-nan",
        "no number of CPUs",
        "resources: {cpus_per_trial: .nan}",
        HERE,
        "resources.cpus_per_trial",
        "nan",
    ),
    study(
        "gpus-negative", "less than no GPU", "resources: {gpus_per_trial: -1}", HERE, "resources.gpus_per_trial", "-1"
    ),
]

SEARCH = [
    points(
        "objectives", "objectives without a cost", "objectives: [accuracy]", HERE, "objectives", "at least one cost"
    ),
    points("objective", "an unknown objective", "objectives: [accuracy, speed]", HERE, "objectives.1", "speed"),
    points("objective-twice", "an objective twice", "objectives: [accuracy, flops, flops]", HERE, "twice"),
    points(
        "latency",
        "latency of a table that knows none",
        "objectives: [accuracy, latency_p99]",
        "fine: ",
        "latency_p99",
        "horowitz",
    ),
    points("policy", "an unknown policy", "policy: clever", "fine: ", "policy", "'clever'", "predictive"),
    points("sampler", "an unknown sampler", "sampler: bayes", HERE, "sampler", "bayes", "'tpe'"),
    points("precision", "an unknown precision", "quantization: [fp32, int4]", "fine: ", "'int4'", "int8"),
    points("device", "an unknown device table", "costs: jetson-tx3", "fine: ", "jetson-tx3", "jetson-tx2"),
    points(
        "device-precision",
        "a precision that the device has not",
        "costs: jetson-tx2, quantization: int8",
        "jetson-tx2",
        "int8",
        "fp32",
    ),
    points(
        "dvfs", "frequencies of a table without", "dvfs: paper", "fine: ", "dvfs", "no frequency levels", "jetson-tx2"
    ),
    points("dvfs-unknown", "an unknown rule", "dvfs: turbo, costs: jetson-tx2", "dvfs", "'turbo'", "deadline"),
    points("slack", "less slack than nothing", "dvfs_slack: -1", HERE, "dvfs_slack", "-1"),
    points("slack-nan", "no number for a slack", "dvfs_slack: .nan", HERE, "dvfs_slack", "nan"),
    points("beta-zero", "a beta of 0", "beta: [1, 0]", HERE, "beta", "above 0"),
    points("beta-inf", "a beta without end", "beta: .inf", HERE, "beta", "inf"),
    points("start-layer", "an exit that no network has", "start_layer: [1, 99]", "start_layer", "99", "20"),
    points("max-jump-huge", "a jump of 10^12 exits", "max_jump: 1000000000000", "max_jump"),
    points("placements", "exits that fall", "placements: [[3, 2]], policy: placed", HERE, "placements", "rising"),
    points(
        "placement-deep",
        "an exit that no network has",
        "placements: [[2, 99]], policy: placed",
        "placements",
        "99",
        "20",
    ),
    points("criterion", "the oracle, which knows the labels", "criterion: oracle", "criterion", "'oracle'", "margin"),
    points("constraint-nan", "no number for a limit", "constraints: {energy: .nan}", HERE, "constraints.energy", "nan"),
    points(
        "constraint-unknown", "an unknown limit", "constraints: {colour: 1}", HERE, "constraints.colour: unknown key"
    ),
    points(
        "exact-per-exit",
        "an exact front of what has none",
        "search: exact, beta: per_exit",
        "search",
        "exact",
        "per_exit",
    ),
    points(
        "exact-p99",
        "an exact front of quantiles",
        "search: exact, objectives: [accuracy, latency_p99], costs: jetson-tx2",
        "latency_p99",
        "latency_mean",
    ),
    points("stop", "a plateau of no batch", "stop: {plateau: 0}", HERE, "stop.plateau", "0"),
    points("batch-of-costs", "a batch of no image", "batch_size: 0", HERE, "operating_points.batch_size", "0"),
    points(
        "batch-of-costs-huge",
        "a batch of 10^30 images",
        f"batch_size: 1{'0' * 30}",
        HERE,
        "operating_points.batch_size",
    ),
]


@each([*FILES, *VALUES, *SEARCH])
def test_a_bad_study_file_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
