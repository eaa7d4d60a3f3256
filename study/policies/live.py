"""Policies on a live network. Samples that stop leave the batch, and only the heads that the policy tries run."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.arrays import Floats, Integers
from study.errors import UserError
from study.networks.inference_network import InferenceNetwork
from study.policies.base import Decision, Policy, Ratios
from study.policies.criteria import Agreement, confidence
from study.policies.engine import jump_ratios, stop_ratios
from study.policies.replay import Walk


def run_policy(network: InferenceNetwork, images: Tensor, policy: Policy, thresholds: Floats) -> Walk:
    """Classify one batch, exit by exit.

    Args:
        network: at any precision; without a cascade also a ``MultiExitNetwork`` in eval mode.
        images: ``[B, C, H, W]``, normalised, on the network's device. B may be 1.
        policy: decides which samples stop and which exit is tried next.
        thresholds: ``[E]``.

    Returns:
        The walk that a replay of the images' trace gives.

    Raises:
        UserError: the policy or the thresholds do not fit the network, or the criterion is ``oracle``.
    """
    exit_count, count = network.exit_count, len(images)
    if policy.criterion == "oracle":
        raise UserError("the oracle knows the labels: it can be replayed, but no network can run it")
    if thresholds.shape != (exit_count,):
        raise UserError(f"thresholds have shape {thresholds.shape}, but the network has {exit_count} exits")
    assert not getattr(network, "training", False), "batch statistics would make an answer depend on its batch"
    assert not getattr(network, "cascade", 0.0), "the segments of a cascade run their heads: see in_fp32"
    if not policy.heads_it_may_run(exit_count).any():
        network = getattr(network, "apart", None) or network  # the heads of a cascade serve nobody
    target = np.full(count, policy.first_exit(exit_count), dtype=np.int64)
    predictions = np.zeros(count, dtype=np.int64)
    tried = np.zeros((count, exit_count), dtype=np.bool_)
    engine_steps = np.zeros(count, dtype=np.int64)
    agreement = Agreement(count)
    running = np.arange(count)  # the samples still in the batch, in its order
    state: tuple[Tensor, ...] = (images,)
    with torch.inference_mode():
        for exit in range(1, exit_count + 1):
            state = network.segments[exit - 1](state)
            trying = np.flatnonzero(target[running] == exit)
            if not len(trying):
                continue
            everyone = len(trying) == len(running)
            feature = state[0] if everyone else state[0][_index(trying, images)]
            logits, who = logits_on_host(network.heads(feature, exit)), running[trying]
            answers, decision = decide_at_exit(policy, logits, thresholds, exit=exit, samples=who, agreement=agreement)
            tried[who, exit - 1] = True
            engine_steps[who] += decision.engine_steps
            predictions[who] = answers
            target[who] = np.where(decision.stop, exit, decision.next_exit)
            if decision.stop.any():
                staying = np.delete(np.arange(len(running)), trying[decision.stop])
                running = running[staying]
                if not len(running):
                    break
                state = tuple(part[_index(staying, images)] for part in state)
        if len(running):
            predictions[running] = logits_on_host(network.classifier(state)).argmax(axis=1)
    return Walk(target, predictions, tried, engine_steps)


def logits_on_host(logits: Tensor) -> NDArray[np.float32]:
    """Copy logits ``[B, C]`` to the host. The call returns after the device has computed and copied the logits."""
    host: NDArray[np.float32] = logits.float().cpu().numpy()
    return host


def decide_at_exit(
    policy: Policy,
    logits: NDArray[np.floating],
    thresholds: Floats,
    *,
    exit: int,
    samples: Integers,
    agreement: Agreement,
) -> tuple[Integers, Decision]:
    """Compute the answers ``[B]`` of an exit and the policy's decision, on the host.

    Args:
        policy: any criterion but ``oracle``.
        logits: ``[B, C]`` of the exit.
        thresholds: ``[E]``.
        samples: ``[B]``, rows of ``agreement`` to which the logits belong.
        agreement: earlier answers; changed by the criterion ``patience`` alone.
    """
    answers = logits.argmax(axis=1)
    if policy.criterion == "logit":
        scores = stop_ratios(logits, float(thresholds[exit - 1]))
    elif policy.criterion == "patience":
        scores = agreement.after(samples, answers)
    else:
        assert policy.criterion != "oracle", "no live network knows the labels"
        scores = confidence(logits, policy.criterion)
    ratios = Ratios(scores, jump_ratios(logits, thresholds, exit, policy.max_jump))
    return answers, policy.decide(ratios, exit=exit, exit_count=len(thresholds))


def _index(positions: Integers, like: Tensor) -> Tensor:
    return torch.from_numpy(positions).to(like.device)
