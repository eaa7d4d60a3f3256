"""The schema of a study file.

Only structure is checked here: types, unknown keys, empty ranges. Names (backbones, data sets, policies) are strings
that the program resolves before any work starts, so that a new backbone needs no second registration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from search_spaces.choices import Choice, Kind, Scalar
from search_spaces.settings import (
    DEFAULT_DEVICE,
    HEAD_MODES,
    BackboneFields,
    BackboneMode,
    DataFields,
    HeadFields,
    Setting,
    TrainingFields,
    settings_of,
)
from search_spaces.strict_yaml import YamlError, parse_yaml
from search_spaces.value_types import (
    AutoInteger,
    AutoNumber,
    Beta,
    Count,
    Integer,
    Name,
    Placements,
    Slack,
    Trials,
    expect,
    parse,
    plain,
)
from search_spaces.words import short, validation_problem

_Model = TypeVar("_Model", bound=BaseModel)


class SpecError(ValueError):
    """A study file that cannot be used. The message is one line that names the file and the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object, field: ValidationInfo) -> object:
        """Pydantic would take ``epochs: yes`` for 1."""
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation is not bool:
            raise ValueError(f"expected no truth value, got {value}")
        return value


def _one(value: Scalar) -> Any:
    """A default of one value, parsed like a value of the file."""
    return Field(value, validate_default=True)


def with_settings(settings: type) -> Callable[[type[_Model]], type[_Model]]:
    """A class decorator: the section has a key for each field of a dataclass of :mod:`search_spaces.settings`.

    A setting that is searched takes a :class:`Choice`. A key that the section declares itself is kept.
    """

    def add(section: type[_Model]) -> type[_Model]:
        keys = {
            setting.option: _key_of(setting)
            for setting in settings_of(settings).values()
            if setting.name not in section.model_fields
        }
        return create_model(
            section.__name__, __base__=section, __module__=section.__module__, __doc__=section.__doc__, **keys
        )

    return add


_KINDS: Mapping[type, Kind] = {int: "integer", float: "number", str: "name"}


def _key_of(setting: Setting) -> Any:
    """The type and the default of a key, for pydantic."""

    def check(value: Any) -> Any:
        values: tuple[Any, ...] = (value,)
        if isinstance(value, Choice):
            values = (value.low, value.high) if value.is_range else value.values
        for one in values:
            if not setting.allows(int(one) if setting.kind is int and isinstance(one, float) else one):
                raise ValueError(f"must be {setting.expected()}, got {repr(one)[:60]}")
        return value

    if setting.kind is tuple:
        as_list = PlainSerializer(lambda value: None if value is None else list(value))
        good = expect(setting.expected(), lambda raw: raw is None or isinstance(raw, list | tuple))
        return Annotated[setting.hint, good, AfterValidator(check), as_list], setting.default
    if not setting.description.searched:
        return Annotated[setting.hint, AfterValidator(check)], setting.default
    return Annotated[Choice, AfterValidator(check), parse(_KINDS[setting.kind]), plain], _one(setting.default)


@with_settings(DataFields)
class DataSpec(_Section):
    """Which images, and how they are cut into splits: :class:`DataFields`, for one data set or several."""

    name: str | list[str] = "digits"

    @property
    def names(self) -> list[str]:
        """The data sets: the study is done on each."""
        return [self.name] if isinstance(self.name, str) else self.name

    @model_validator(mode="after")
    def _distinct_names(self) -> DataSpec:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"name must be one data set or several different ones, got {self.name}")
        return self


class SchedulerSpec(_Section):
    """How phase 1 stops weak trials.

    ``halving``: all trials train ``first_rung`` epochs, the best 1/``reduction`` of them ``reduction`` times as many,
    and so on up to ``epochs``. ``asha``: the same without waiting for a rung's trials, hence not repeatable. ``none``:
    all trials train ``epochs`` epochs.
    """

    kind: Literal["halving", "asha", "none"] = "none"
    first_rung: Count = 1
    reduction: int = Field(2, ge=2, le=10**9)


@with_settings(TrainingFields)
class TrainingSpec(_Section):
    """The settings of both halves of phase 1: the number of trials, their budget, and :class:`TrainingFields`."""

    trials: Trials = 1
    epochs: Count = 10
    scheduler: SchedulerSpec = SchedulerSpec()


@with_settings(BackboneFields)
class BackbonesSpec(TrainingSpec):
    """Phase 1a: backbones, ranked by the classifier's validation accuracy."""

    mode: BackboneMode = "original"
    pretrained: str | None = None
    initial: str | None = None
    initial_digest: str | None = None
    """Of the initial weights. The program fills it in."""
    code: dict[str, str] | None = None
    """Module -> digest of its file, of the user's own backbones. The program fills it in."""


@with_settings(HeadFields)
class ExitsSpec(TrainingSpec):
    """Phase 1b: exit heads on the best backbones, ranked by the mean validation accuracy over exits."""

    mode: Name = _one("exits")
    parents: Count = 1

    @field_validator("mode")
    @classmethod
    def _trains_heads(cls, mode: Choice) -> Choice:
        for name in mode.values:
            if name not in HEAD_MODES:
                raise ValueError(f"expected {', '.join(HEAD_MODES)} or a list of both, got {short(name)!r}")
        return mode


Objective = Literal["accuracy", "flops", "bitops", "energy", "latency_mean", "latency_p50", "latency_p99"]


class ConstraintsSpec(_Section):
    """The limits of an operating point; None: no limit."""

    accuracy_drop: float | None = Field(None, gt=-1, lt=1)
    latency_mean: float | None = Field(None, gt=0)
    latency_p50: float | None = Field(None, gt=0)
    latency_p99: float | None = Field(None, gt=0)
    energy: float | None = Field(None, gt=0)
    memory: float | None = Field(None, gt=0)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        return {name: value for name, value in self if value is not None}


class StopSpec(_Section):
    """The conditions that end the search before its last trial; None: no such condition.

    ``hypervolume_ratio``: the share of the hypervolume of the exact front of the same space. ``plateau``: the number of
    batches in a row in which the hypervolume grew by less than a thousandth.
    """

    hypervolume_ratio: float | None = Field(None, gt=0, le=1)
    plateau: Count | None = None


class OperatingPointsSpec(_Section):
    """Phase 2: inference settings of the best networks, searched on replayed traces.

    ``search``: ``optuna`` asks a sampler for ``trials`` points; ``exact`` computes the whole front.
    """

    search: Literal["optuna", "exact"] = "optuna"
    trials: int = Field(200, ge=1, le=10**7)
    batch: int = Field(25, ge=1, le=10**7)
    stop: StopSpec = StopSpec()
    sampler: Literal["tpe", "nsga2", "nsga3", "qmc", "gp", "random"] = "tpe"
    objectives: list[Objective] = ["accuracy", "flops", "energy"]
    constraints: ConstraintsSpec = ConstraintsSpec()
    networks: Count = 1
    scope: Literal["across", "each"] = "across"
    policy: Name = _one("predictive")
    criterion: Name = _one("logit")
    beta: Beta = "auto"
    start_layer: AutoInteger = "auto"
    max_jump: Integer = _one(8)
    overshoot: Name = _one("last_exit")
    price: AutoNumber = "auto"
    statistic: Name = _one("mean_logit")
    placements: Placements = "auto"
    quantization: Name = _one("fp32")
    costs: str = DEFAULT_DEVICE
    batch_size: Count = 1
    dvfs: Name = _one("none")
    dvfs_slack: Slack = "auto"

    @model_validator(mode="after")
    def _sensible(self) -> OperatingPointsSpec:
        for name in ("beta", "start_layer", "max_jump", "price"):
            choice = getattr(self, name)
            smallest = choice.smallest if isinstance(choice, Choice) else 1
            if smallest <= 0:
                raise ValueError(f"{name} must be above 0, got {smallest}")
        if "accuracy" not in self.objectives or len(self.objectives) < 2:
            raise ValueError("objectives must be accuracy and at least one cost (flops, energy, latency_p99, ...)")
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives names one twice: {self.objectives}")
        return self


class GuaranteeSpec(_Section):
    """A promise about the points of the front.

    With ``confidence`` over the draw of the images that certify, a certified point loses at most ``accuracy_drop``
    against the network without exits on new images of the same kind.
    """

    accuracy_drop: float = Field(0.01, gt=0, lt=1)
    confidence: float = Field(0.9, gt=0.5, lt=1)


CERTIFICATION = 0.1
"""Share of the training part that certifies a guarantee, where the study file gives no ``data.certification``."""


class ResourcesSpec(_Section):
    """The resources of a trial of phase 1, and the devices whose measurements may be used."""

    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float = Field(0, ge=0)
    max_failures: int = Field(1, ge=0, le=1000)
    profiles_of_other_device: bool = False


class StudySpec(_Section):
    """A whole study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataSpec = DataSpec()
    backbones: BackbonesSpec = BackbonesSpec()
    exits: ExitsSpec = ExitsSpec()
    operating_points: OperatingPointsSpec = OperatingPointsSpec()
    resources: ResourcesSpec = ResourcesSpec()
    guarantee: GuaranteeSpec | None = None
    logging: list[Literal["tensorboard", "mlflow"]] = []

    @model_validator(mode="after")
    def _sensible(self) -> StudySpec:
        if len(set(self.logging)) < len(self.logging):
            raise ValueError(f"logging names one twice: {self.logging}")
        if self.guarantee is not None and self.certification == 0:
            raise ValueError("guarantee needs images of its own: set data.certification above 0, or leave it out")
        return self

    @property
    def certification(self) -> float:
        """The share of the training part that certifies; 0 without a guarantee, unless the file gives another."""
        data: Any = self.data  # the keys of :class:`DataFields` are added at run time
        if data.certification is not None:
            return float(data.certification)
        return CERTIFICATION if self.guarantee else 0.0

    def choices(self, phase: Literal["backbones", "exits"]) -> dict[str, Choice]:
        """The dimensions of a phase, by name."""
        section = getattr(self, phase)
        return {name: value for name, value in section if isinstance(value, Choice)}

    def plain(self) -> dict[str, Any]:
        """All settings, defaults included, as they would stand in a study file."""
        return self.model_dump()


def parse_space(text: str, source: str, changes: Sequence[tuple[str, object]] = ()) -> StudySpec:
    """A study from YAML text; ``source`` names the text in errors.

    ``changes`` are values that replace values of the text, as (``backbones.epochs``, 5).

    Raises:
        SpecError: no YAML, no mapping, an unknown or doubled key, a wrong type, an empty range.
    """
    try:
        return validate_space(parse_yaml(text), source, changes)
    except YamlError as error:
        raise SpecError(f"{source}: {error}") from None


def parse_change(text: str) -> tuple[str, object]:
    """Read ``key=value`` from a command line; the value is YAML.

    Raises:
        SpecError: the text has no ``=``, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise SpecError(f"--set {short(text)}: expected KEY=VALUE, as in backbones.epochs=5")
    try:
        return key, parse_yaml(value)
    except YamlError as error:
        raise SpecError(f"--set {short(text)}: the value is no YAML ({error})") from None


def validate_space(raw: Any, source: str, changes: Sequence[tuple[str, object]] = ()) -> StudySpec:
    """A study from the values of a study file, or of a run folder's ``study.yaml``; else as :func:`parse_space`."""
    if isinstance(raw, dict) and {"study", "provenance"} <= raw.keys():
        raw = raw["study"]
    if not isinstance(raw, dict):
        raise SpecError(f"{source}: a study file is a mapping of keys, but this is {type(raw).__name__}")
    for key, value in changes:
        section = raw
        *parents, name = key.split(".")
        for parent in parents:
            # A resolved study leaves sections out.
            section[parent] = section = {} if section.get(parent) is None else section[parent]
            if not isinstance(section, dict):
                raise SpecError(f"{source}: {key}: {parent} is no section")
        section[name] = value
    try:
        return StudySpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{source}: {validation_problem(error, 'study', model=StudySpec)}") from None
