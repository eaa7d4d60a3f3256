"""The names that others build on: the design's example, import orders, and what an import costs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import study

ROOT = Path(study.__file__).parent.parent
NAMES = ["Costs", "Hierarchical", "Predictive", "Trace", "exact_front", "prediction_accuracy", "replay"]


def python(code: str) -> str:
    """Run code in a fresh interpreter; returns what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs_as_written():
    from study import Costs, Hierarchical, Predictive, Trace, exact_front, prediction_accuracy, replay

    random = np.random.default_rng(0)
    samples, exits, classes = 60, 20, 10
    logits = (30 * random.normal(size=(samples, exits + 1, classes))).astype(np.float32)
    labels = random.integers(0, classes, samples)
    thresholds = random.uniform(2.0, 8.0, exits).astype(np.float32)

    trace = Trace(logits=logits, labels=labels, thresholds=thresholds)
    walk = replay(trace, Predictive(beta=15.0, start_layer=8, max_jump=8, overshoot="last_exit"))
    for array in (walk.exit_index, walk.heads_run, walk.predictions):
        assert array.shape == (samples,)
        assert np.issubdtype(array.dtype, np.integer)
    assert walk.exit_index.min() >= 8
    assert walk.exit_index.max() <= exits + 1
    share, count = prediction_accuracy(trace, beta=15.0, start_layer=8)
    assert 0 <= share <= 1
    assert count > 0
    costs = Costs(segment_flops=np.ones(exits + 1), head_flops=np.ones(exits), engine_step_flops=0.0)
    front = exact_front(trace, costs, policy=Predictive, objectives=("accuracy", "flops"))
    assert front.columns.tolist() == ["start_layer", "beta_low", "beta_high", "accuracy", "flops"]
    assert exact_front(trace, costs, policy=Hierarchical).columns.tolist() == front.columns.tolist()


IN_EVERY_ORDER = """
import importlib, sys, types
from itertools import permutations

names = {names}
modules = ["study.costs.costs", "study.fronts.exact", "study.policies.policies", "study.policies.replay"]
modules += ["study.traces.trace", "study.errors"]

def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == "study"]:
        del sys.modules[name]

def check(loaded_first):
    for name in names:
        namespace = {{}}
        exec(f"from study import {{name}}", namespace)
        value = namespace[name]
        assert callable(value) and not isinstance(value, types.ModuleType), (loaded_first, name, value)
        assert value.__name__ == name, (loaded_first, name, value)

orders = [*permutations(names, 2), *permutations(modules, 2)]
for order in orders:
    forget()
    for name in order:
        if name in modules:
            importlib.import_module(name)
        else:
            exec(f"from study import {{name}}")
    check(order)
print(len(orders))
"""


def test_names_are_the_same_in_every_import_order():
    """No submodule may shadow a function."""
    assert python(IN_EVERY_ORDER.format(names=NAMES)).strip() == str(7 * 6 + 6 * 5)


@pytest.mark.parametrize("name", ["replay", "exact_front"])
def test_a_name_imported_first_in_a_fresh_interpreter_is_a_function(name):
    code = f"from study import {name}; import study; print(type({name}).__name__, study.{name} is {name})"
    assert python(code).split() == ["function", "True"]


def test_every_public_name_is_there_and_no_other():
    assert set(NAMES) <= set(study.__all__)
    for name in study.__all__:
        assert getattr(study, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'replays'"):
        _ = study.replays


def loaded(code: str, suspects: list[str]) -> list[str]:
    """Which of some modules a fresh interpreter holds after running code."""
    return python(f"{code}\nimport sys; print(*[name for name in {suspects!r} if name in sys.modules])").split()


HEAVY = ["torch", "pandas", "ray", "optuna", "moocore", "matplotlib"]


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import study", set()),
        ("from study import Trace, Predictive, Costs, UserError", set()),
        ("from study import replay, prediction_accuracy, exact_front", {"pandas", "moocore", "matplotlib"}),
        (
            "from study import Study; Study.open('results/reference/vgg19-cifar10').front()",
            {"torch", "pandas", "moocore"},
        ),
    ],
)
def test_names_cost_only_what_they_need(code, allowed):
    assert set(loaded(code, HEAVY)) <= allowed


def test_a_machine_with_only_torch_runs_all_but_the_search():
    """Neither Ray nor Optuna, of which a submodule is enough to fail."""
    modules = "study.training.loop, study.policies.live, study.traces.trace, study.policies.replay"
    modules += ", study.fronts.exact, study.costs.model.devices"
    assert loaded(f"import {modules}", ["torch", "ray", "optuna"]) == ["torch"]


def test_training_tracing_and_profiling_need_torch_and_little_else():
    modules = "study.training.loop, study.traces.trace, study.networks.multi_exit, study.networks.quantization"
    modules += ", study.costs.flops, study.costs.measure.bench"
    suspects = ["ray", "optuna", "pandas", "pydantic", "yaml", "torchao", "scipy", "pyarrow"]
    assert loaded(f"import {modules}", suspects) == []


def test_images_are_read_from_the_cache_without_torch():
    assert loaded("import study.data.image_cache, study.data.settings, study.execution.failures", ["torch"]) == []


def test_results_and_search_spaces_use_nothing_of_study():
    code = "import results.pareto, results.parts, results.storage.atomic, search_spaces, search_spaces.spec"
    assert loaded(code, ["study", "ray", "optuna", "torch"]) == []


def test_the_settings_of_a_study_need_only_the_standard_library():
    assert loaded("import search_spaces.settings", ["pydantic", "numpy", "yaml", "study", "torch"]) == []
