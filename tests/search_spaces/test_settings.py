"""The settings of data, networks and training: study files, options and Python have one list of them."""

from __future__ import annotations

import argparse

import pytest

from search_spaces import Choice, SpecError
from search_spaces.settings import (
    BackboneFields,
    DataFields,
    HeadFields,
    Setting,
    TrainingFields,
    first_problem,
    settings_of,
)
from search_spaces.spec import StudySpec, parse_space
from study.cli.main import build_parser
from study.data.settings import DataSettings
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.settings import TrainingSettings

SECTIONS = {
    DataFields: ("data", DataSettings()),
    BackboneFields: ("backbones", NetworkSettings()),
    HeadFields: ("exits", HeadSettings()),
    TrainingFields: ("exits", TrainingSettings(mode="exits")),
}
EVERY = [(kind, setting) for kind in SECTIONS for setting in settings_of(kind).values()]
IDS = [setting.option for _, setting in EVERY]


def key_of(kind: type, setting: Setting) -> str:
    """The key of a setting in its section of a study file."""
    return "name" if (kind, setting.name) == (DataFields, "name") else setting.option


def train_options(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["train", *arguments])


@pytest.mark.parametrize(("kind", "setting"), EVERY, ids=IDS)
def test_study_files_options_and_python_have_the_same_default(kind, setting):
    section, settings = SECTIONS[kind]
    stored = getattr(StudySpec(name="x"), section).model_dump()[key_of(kind, setting)]
    assert stored == getattr(settings, setting.name) == setting.default
    option = getattr(train_options(), setting.option)
    assert option == (None if kind in (DataFields, BackboneFields) else setting.default)


BOUNDED = [(kind, one) for kind, one in EVERY if one.kind is not str or one.choices]


def beyond(setting: Setting) -> list[object]:
    """Values just outside what a setting allows."""
    if setting.choices:
        return [setting.kind(99)]
    known = setting.description
    step = 1 if setting.kind is int else 1e-3
    values = [known.least - step, known.most + step, known.above, known.below]
    return [setting.kind(value) for value in values if abs(value) < float("inf")]


@pytest.mark.parametrize(("kind", "setting"), BOUNDED, ids=[one.option for _, one in BOUNDED])
def test_study_files_options_and_python_refuse_the_same_values(kind, setting, capsys):
    section, settings = SECTIONS[kind]
    for value in beyond(setting):
        assert not setting.allows(value)
        changed = dict.fromkeys([setting.name], value)
        with pytest.raises((ValueError, AssertionError)):
            problem = first_problem(type(settings)(**{**vars(settings), **changed}))
            assert problem is None, problem
        with pytest.raises(SpecError, match=rf"x: {section}\.{key_of(kind, setting)}: "):
            parse_space("name: x", "x", [(f"{section}.{key_of(kind, setting)}", value)])
        with pytest.raises(SystemExit):
            train_options(f"--{setting.option.replace('_', '-')}={value}")
        assert f"--{setting.option.replace('_', '-')}" in capsys.readouterr().err


def test_a_range_and_a_list_keep_to_the_bounds_of_the_setting():
    spec = parse_space("name: x\nexits: {momentum: {low: 0, high: 0.99}, codewords: [1, 65536]}", "x")
    assert spec.exits.momentum == Choice(low=0.0, high=0.99)
    for text in ("momentum: {low: 0, high: 1}", "codewords: [1, 65537]", "conv_layers: {low: 2, high: 17}"):
        with pytest.raises(SpecError, match=r"^x: exits\.\w+: must be a (whole )?number from"):
            parse_space(f"name: x\nexits: {{{text}}}", "x")
