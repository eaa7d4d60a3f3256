"""Options that cannot be, or that contradict each other; device tables and profiles given as options."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.corpus import EVALUATE, TRAIN, Case, Workplace, each, nothing

EXITS = f"{EVALUATE} --pretrained models/exits"

PROFILE = "profile --backbone vgg11 --width 0.125 --device cpu --no-meter --repeats 1"


def bad(
    id: str, why: str, command: str | list[str], *told: str, given: Callable[[Workplace], object] = nothing
) -> Case:
    return Case(id, why, given, command, told)


def models(place: Workplace) -> None:
    place.take("models")


def run(place: Workplace) -> None:
    place.take("run")


def a_file(place: Workplace) -> None:
    place.write("file", "mine")


def a_pipe(place: Workplace) -> None:
    os.mkfifo(place / "pipe.pt")


LAUGHS = "[&a [x, x], &b [*a, *a], [*b, *b]]"

COMMANDS = [
    bad("none", "no command at all", [], "arguments are required", "COMMAND"),
    bad("unknown-command", "a command that there is not", "frobnicate", "invalid choice", "frobnicate", "run"),
    bad("unknown-option", "an option that there is not", "run quickstart --sorage x", "unrecognized", "--sorage"),
    bad("lines", "an argument of several lines", ["run", "quickstart", "--x\ny\nz"], "unrecognized", "--x y z"),
    bad("escape", "an argument that clears the screen", ["run", "quickstart", "\x1b[2J"], "unrecognized", "\\x1b[2J"),
    bad("no-space", "run without a study", "run", "required: space"),
    bad("nowhere", "a study that there is not", "run nosuchstudy", "nosuchstudy: no such study file", "quickstart"),
]

RUN = [
    bad("set-no-equals", "a change without a value", "run quickstart --set backbones", "--set backbones", "KEY=VALUE"),
    bad("set-no-key", "a change without a key", "run quickstart --set =5", "--set =5", "KEY=VALUE"),
    bad("set-yaml", "a value that is no YAML", "run quickstart --set 'seed=[1,'", "--set seed=[1,", "no YAML"),
    bad("set-date", "a date that is none", "run quickstart --set seed=2024-13-45", "--set seed=2024-13-45", "month"),
    bad("set-alias", "a bomb of aliases", ["run", "quickstart", "--set", f"seed={LAUGHS}"], "--set seed=", "aliases"),
    bad(
        "set-tag",
        "a tag that would run a command",
        ["run", "quickstart", "--set", "seed=!!python/object/apply:os.system ['touch ran']"],
        "--set seed=",
        "python/object",
    ),
    bad("set-nested", "10^5 brackets", ["run", "quickstart", "--set", f"seed={'[' * 10**5}"], "--set seed=", "nested"),
    bad("set-digits", "5,000 digits", ["run", "quickstart", "--set", f"seed={'9' * 5000}"], "--set seed=", "digits"),
    bad("set-unknown", "an unknown key", "run quickstart --set backbones.epoch=5", "backbones.epoch: unknown key"),
    bad("set-inside", "a key inside of a number", "run quickstart --set seed.x=1", "seed.x", "seed is no section"),
    bad("set-dots", "an empty part of a key", "run quickstart --set data..name=digits", "quickstart.yaml: data."),
    bad("set-nan", "no number", "run quickstart --set data.validation=.nan", "quickstart.yaml: data.validation", "nan"),
    bad("set-name", "a name that leads out", "run quickstart --set name=../x", "quickstart.yaml: name: ", "../x"),
    bad("name-up", "a folder above", "run quickstart --name ../x", "'../x'", "cannot be a folder name"),
    bad("name-nul", "a NUL in a name", ["run", "quickstart", "--name", "a\0b"], "cannot be a folder name"),
    bad("name-long", "5,000 letters", ["run", "quickstart", "--name", "x" * 5000], "cannot be a folder name"),
    bad("name-empty", "an empty name", ["run", "quickstart", "--name", ""], "''", "cannot be a folder name"),
    bad("name-dots", "the folder above as a name", "run quickstart --name ..", "'..'", "cannot be a folder name"),
    bad(
        "storage-file", "a file to hold folders", "run quickstart --storage file", "file is not a folder", given=a_file
    ),
    bad(
        "storage-inside", "a folder in a file", "run quickstart --storage file/x", "file is not a folder", given=a_file
    ),
    bad("storage-long", "a path of 5,000 letters", ["run", "quickstart", "--storage", "x" * 5000], "xxxxx", "too long"),
    bad(
        "data-root",
        "a data root that there is not",
        "run cifar10 --data-root nowhere",
        "'cifar10'",
        "nowhere",
        "data_batch_1",
    ),
    bad(
        "data-root-file",
        "a file as a data root",
        "run svhn --data-root file",
        "'svhn'",
        "train_32x32.mat",
        given=a_file,
    ),
    bad("folder-nowhere", "images that are not there", "run own_images --folder nowhere", "nowhere", "not there"),
    bad(
        "folder-file",
        "a file as the images' folder",
        "run own_images --folder file",
        "file",
        "not a folder",
        given=a_file,
    ),
    bad("folder-missing", "no word of the images' folder", "run own_images", "--folder"),
    bad("folder-digits", "a folder for digits", "run quickstart --folder .", "folder is for the data set image_folder"),
    bad("folder-nul", "a NUL in a path", ["run", "own_images", "--folder", "a\0b"], "a\\x00b"),
    bad("pretrained-nowhere", "no weights there", "run paper --pretrained no.pt", "no.pt does not exist"),
    bad(
        "pretrained-trials",
        "weights for several trials",
        "run quickstart --pretrained models/original",
        "backbones.pretrained",
        "4 trials",
        given=models,
    ),
    bad("pretrained-nul", "a NUL in a path", ["run", "paper", "--pretrained", "a\0b"], "a\\x00b"),
    bad("address", "no cluster there", "run quickstart --address 127.0.0.1:1", "--address 127.0.0.1:1"),
    bad("address-words", "no address at all", "run quickstart --address 'my cluster'", "--address my cluster"),
]

ONE_NETWORK = [
    bad("train-no-weights", "heads without a backbone", "train --mode exits", "mode exits", "--pretrained"),
    bad("train-data", "an unknown data set", "train --data cifar11", "'cifar11'", "cifar10"),
    bad("train-device", "an unknown device", "train --device tpu", "'tpu'", "cpu or cuda"),
    bad("train-gpu", "a GPU that is not there", "train --device cuda:77", "cuda:77"),
    bad("train-epochs", "no epoch", "train --epochs 0", "--epochs", "0 is not a whole number from 1"),
    bad("train-epochs-text", "a word for a number", "train --epochs many", "--epochs", "many"),
    bad("train-epochs-huge", "5,000 digits", ["train", "--epochs", "9" * 5000], "--epochs"),
    bad("train-rate", "no number", "train --learning-rate nan", "--learning-rate", "nan"),
    bad("train-warmup", "no number", "train --warmup-epochs nan", "--warmup-epochs", "nan"),
    bad("train-average", "an average that never moves", "train --ema-decay 1", "--ema-decay", "below 1"),
    bad("train-decay", "a negative decay", "train --weight-decay -1", "--weight-decay", "-1"),
    bad("train-width", "no number", f"{TRAIN} --width nan", "width", "nan"),
    bad("train-width-huge", "10^9 channels", f"{TRAIN} --width 1e9", "width", "1000"),
    bad("train-codewords", "no codeword", f"{TRAIN} --codewords 0", "codewords", "0"),
    bad("train-seed", "a negative seed", f"{TRAIN} --seed -1", "seed", "-1"),
    bad("train-seed-huge", "a seed of 30 digits", f"{TRAIN} --seed {'9' * 30}", "seed", "999"),
    bad("train-limit", "no image", f"{TRAIN} --limit 0", "limit", "0"),
    bad("train-limit-small", "an image for two classes", f"{TRAIN} --limit 5", "limit 5", "10 classes"),
    bad("train-image-size", "10^9 pixels a side", f"{TRAIN} --image-size 1000000000", "--image-size", "1000000000"),
    bad("train-image-size-negative", "fewer than no pixel", f"{TRAIN} --image-size -3", "--image-size", "-3"),
    bad("train-suffix", "a suffix that leads out", f"{TRAIN} --suffix ../../x", "../../x", "cannot be a folder name"),
    bad("train-output", "a folder in a file", f"{TRAIN} --output file/x", "file is not a folder", given=a_file),
    bad("train-output-file", "a file as a folder", f"{TRAIN} --output file", "file is not a folder", given=a_file),
    bad("train-no-save-output", "a folder for nothing", f"{TRAIN} --no-save --output x", "--no-save", "--output"),
    bad("train-output-suffix", "a suffix of no name", f"{TRAIN} --suffix a --output x", "--suffix", "--output"),
    bad("train-pipe", "a pipe in place of weights", f"{TRAIN} --pretrained pipe.pt", "pipe.pt", given=a_pipe),
    bad(
        "train-other-run",
        "a folder with another run",
        f"{TRAIN} --data digits --limit 240 --optimizer sgd --output models/original",
        "models/original",
        "optimizer is 'adam' there and 'sgd' here",
        given=models,
    ),
    bad("evaluate-nothing", "no network", EVALUATE, "--pretrained"),
    bad("evaluate-nowhere", "no network there", f"{EVALUATE} --pretrained nowhere", "nowhere does not exist"),
    bad("evaluate-backbone", "another backbone", f"{EXITS} --backbone resnet18", "vgg11, not resnet18", given=models),
    bad("evaluate-width", "another width", f"{EXITS} --width 0.5", "width 0.125, not 0.5", given=models),
    bad("evaluate-seed", "other splits", f"{EXITS} --seed 4", "models/exits", "splits would mix", given=models),
    bad("evaluate-beta", "no number", f"{EXITS} --beta nan", "beta is nan", given=models),
    bad("evaluate-beta-zero", "a beta of 0", f"{EXITS} --beta 0", "beta is 0", given=models),
    bad("evaluate-betas", "three betas", f"{EXITS} --beta 1 2 3", "3 betas", "12 exits", given=models),
    bad("evaluate-start", "an exit that there is not", f"{EXITS} --start-layer 13", "start_layer is 13", given=models),
    bad("evaluate-jump", "10^9 steps", f"{EXITS} --max-jump 1000000000", "max_jump is 1000000000", given=models),
    bad("evaluate-exits", "exits that fall", f"{EXITS} --policy placed --exits 3 2", "[3, 2]", "rising", given=models),
    bad("evaluate-static", "static without an exit", f"{EXITS} --policy static", "static needs --exits", given=models),
    bad("evaluate-exits-alone", "exits of no use", f"{EXITS} --exits 3", "--exits", "placed", given=models),
    bad("evaluate-criterion", "a rule without it", f"{EXITS} --criterion margin", "--criterion margin", given=models),
    bad("evaluate-precision", "an unknown precision", f"{EXITS} --quantization int4", "--quantization", "int4"),
    bad("evaluate-slack", "a slack of no rule", f"{EXITS} --dvfs-slack 1", "--dvfs-slack 1", "--dvfs", given=models),
    bad(
        "evaluate-dvfs", "no levels", f"{EXITS} --dvfs paper", "horowitz-2014-45nm", "no frequency levels", given=models
    ),
    bad(
        "evaluate-untrained",
        "heads that nobody trained",
        f"{EVALUATE} --pretrained models/original",
        "exit heads are not trained",
        "--mode exits",
        given=models,
    ),
    bad("profile-costs", "no such table", f"{PROFILE} --costs jetson-tx3", "jetson-tx3", "jetson-tx2"),
    bad("profile-window", "no number", f"{PROFILE} --window nan", "--window", "nan"),
    bad("profile-repeats", "no repeat", f"{PROFILE} --repeats 0", "--repeats", "0"),
    bad("profile-batch", "no image", f"{PROFILE} --batch-size 0", "--batch-size", "0"),
    bad("profile-batch-huge", "10^15 images", f"{PROFILE} --batch-size 1000000000000000", "--batch-size"),
    bad("profile-classes-huge", "10^12 classes", f"{PROFILE} --classes 1000000000000", "--classes"),
    bad("profile-output", "a file as a folder", f"{PROFILE} --output file", "file is not a folder", given=a_file),
    bad(
        "profile-classes",
        "classes of a trained network",
        f"{PROFILE} --classes 5 --pretrained models/exits",
        "--classes",
        "--pretrained",
        given=models,
    ),
    bad("profile-width", "another width", "profile --pretrained models/exits --width 0.5", "width 0.125", given=models),
]

RESULTS = [
    bad("front-nowhere", "no run folder there", "front nowhere", "nowhere is no run folder", "study.yaml"),
    bad("front-exact-nowhere", "no run folder there", "front nowhere --exact", "nowhere is no run folder"),
    bad("status-nowhere", "no run folder there", "status nowhere", "nowhere is no run folder"),
    bad("status-file", "a file as a run folder", "status file", "file is no run folder", given=a_file),
    bad("front-nul", "a NUL in a path", ["front", "a\0b"], "a\\x00b is no run folder"),
    bad("front-suffix", "an unknown kind of table", "front run --output x.xls", "x.xls", ".csv or .parquet", given=run),
    bad(
        "front-figure",
        "an unknown kind of figure",
        "front run --figure x.bmp",
        "x.bmp",
        ".png, .svg or .pdf",
        given=run,
    ),
    bad("front-set", "another space, not exact", "front run --set seed=1", "--set belongs to --exact", given=run),
    bad(
        "exact-set",
        "other networks",
        "front run --exact --set seed=1",
        "--set seed",
        "operating_points only",
        given=run,
    ),
    bad("exact-policy", "an unknown policy", "front run --exact --set operating_points.policy=x", "'x'", given=run),
    bad(
        "exact-precision",
        "none traced",
        "front run --exact --set operating_points.quantization=int8",
        "int8",
        given=run,
    ),
    bad("output-file", "a folder in a file", "front run --output run/study.yaml/x.csv", "run/study.yaml", given=run),
    bad(
        "exact-output-file", "the same", "front run --exact --output run/study.yaml/x.csv", "run/study.yaml", given=run
    ),
    bad(
        "figure-file", "the same", "front run --output a.csv --figure run/study.yaml/x.png", "run/study.yaml", given=run
    ),
    bad(
        "output-folder",
        "a folder of that name",
        "front run --output x.csv",
        "x.csv",
        "folder",
        given=lambda place: (run(place), (place / "x.csv").mkdir()),
    ),
    bad(
        "figure-folder",
        "a folder of that name",
        "front run --exact --output a.csv --figure x.png",
        "x.png",
        "folder",
        given=lambda place: (run(place), (place / "x.png").mkdir()),
    ),
]


@each([*COMMANDS, *RUN, *ONE_NETWORK, *RESULTS])
def test_a_bad_option_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
