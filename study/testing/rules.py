"""Checks of exit criteria and policies."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from study.networks.multi_exit import build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.base import Policy
from study.policies.criteria import Criterion
from study.policies.criteria import check_criterion as refuse_unknown
from study.policies.live import run_policy
from study.policies.policies import POLICIES, Hierarchical, policy_from_row
from study.policies.replay import replay, tally
from study.traces.trace import Trace

SAMPLES, EXITS, CLASSES = 60, 4, 5


def check_policy(policy: Policy) -> None:
    """Check a policy against the laws of replay.

    Exits are tried in rising order; a sample stops at an exit that it tried, or at the classifier; the fast tally and
    the compiled form agree with the plain replay; samples do not depend on each other; a live run of a network walks as
    the replay of its trace; a row of a table holds the policy, where the policy is entered in ``POLICIES``.

    Args:
        policy: for networks of at least 4 exits. Its ``beta`` should stop some samples and not others.

    Raises:
        AssertionError: something does not hold; the message says what.
    """
    trace = random_trace()
    walk = replay(trace, policy)
    assert ((walk.exit_index >= 1) & (walk.exit_index <= EXITS + 1)).all(), "a sample stops at no exit"
    stopped = walk.exit_index <= EXITS
    tried = walk.tried[np.arange(SAMPLES), np.minimum(walk.exit_index, EXITS) - 1]
    assert tried[stopped].all(), "a sample stops at an exit that it did not try"
    may = policy.heads_it_may_run(EXITS)
    assert not walk.tried[:, ~may].any(), "heads_it_may_run leaves out a head that runs"
    assert walk.exit_index.max() <= EXITS + 1 and (walk.exit_index <= max(policy.depth(EXITS), 1)).all(), (
        "a sample goes deeper than depth says"
    )
    counted = tally(trace, policy)
    assert counted.stopped.tolist() == np.bincount(walk.exit_index - 1, minlength=EXITS + 1).tolist(), (
        "the tally, which takes the compiled form, counts other exits than the plain replay"
    )
    half = trace_of(trace, np.arange(0, SAMPLES, 2))
    assert replay(half, policy).exit_index.tolist() == walk.exit_index[::2].tolist(), "samples depend on each other"
    if type(policy).name in POLICIES:
        assert policy_from_row(policy.to_row()) == policy, "a row of a table does not hold the policy"
    _check_live(policy)


def check_criterion(criterion: str) -> None:
    """Check an exit criterion: a higher beta never stops a sample earlier, and a live run agrees with the replay.

    Raises:
        AssertionError: something does not hold; the message says what.
        UserError: the criterion is unknown.
    """
    refuse_unknown(criterion)
    known = cast(Criterion, criterion)
    trace = random_trace()
    before = np.zeros(SAMPLES, dtype=int)
    for beta in (1e-3, 0.1, 0.3, 0.6, 0.9, 1.5, 3.0, 1e3):
        walk = replay(trace, Hierarchical(beta, criterion=known))
        assert (walk.exit_index >= before).all(), f"a higher beta ({beta:g}) stops a sample earlier"
        before = walk.exit_index
    if criterion != "oracle":  # a live run knows no labels
        _check_live(Hierarchical(0.5, criterion=known))


def random_trace() -> Trace:
    """Logits of a network of 4 exits that grow with depth, with labels that they mostly tell."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    logits = rng.normal(size=(SAMPLES, EXITS + 1, CLASSES)).astype(np.float32)
    logits *= np.linspace(1, 2, EXITS + 1, dtype=np.float32)[:, None]
    logits[np.arange(SAMPLES), :, labels] += 1
    return Trace(logits=logits, labels=labels, thresholds=np.abs(logits[:, :-1]).max(axis=2).mean(axis=0).astype(float))


def trace_of(trace: Trace, samples: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Trace:
    """Some samples of a trace, with its thresholds."""
    return Trace(logits=trace.logits[samples], labels=trace.labels[samples], thresholds=trace.thresholds)


def _check_live(policy: Policy) -> None:
    """Hold a live run against the replay of the same network's logits."""
    settings = NetworkSettings(
        backbone="vgg11",
        width=0.125,
        head=HeadSettings(kind="linear"),
        exits_at=("conv1_1", "conv2_1", "conv3_1", "conv4_1"),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build_network(settings, classes=CLASSES, image_size=32, channels=1).eval()
        images = torch.randn(SAMPLES, 1, 32, 32)
        logits = network(images).numpy()
        thresholds = np.abs(logits[:, :-1]).max(axis=2).mean(axis=0).astype(float)
        labels = np.zeros(SAMPLES, dtype=np.int64)
        expected = replay(Trace(logits=logits, labels=labels, thresholds=thresholds), policy)
        live = run_policy(network, images, policy, thresholds)
    agree = float((live.exit_index == expected.exit_index).mean())
    assert agree >= 0.95, f"a live run stops {1 - agree:.0%} of the samples elsewhere than the replay"
