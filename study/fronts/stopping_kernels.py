"""The compiled loops of :mod:`study.fronts.optimal_stopping` and :mod:`study.fronts.head_thresholds`.

Private to `study`: the functions take plain arrays, check nothing and raise nothing. All functions release the
interpreter's lock.
"""

from __future__ import annotations

import numpy as np

from study.policies.kernels import compiled


@compiled
def fit_backward(left, weight, inverse, mass, right, reach, head, price, coefficients, returns):
    """The regressions of all exits at one price, from the last exit to the first.

    Args:
        left: ``[E, N]``, the knot on the left of a score.
        weight: ``[E, N]``, the weight of the knot on the right; the knot on the left has the rest.
        inverse: ``[E, K, K]``, inverse matrices of the normal equations, with the ridge.
        mass: ``[E, K]``, the sums of the basis functions over the samples.
        right: ``[N, E+1]``, whether the answer of an exit is right.
        reach: ``[E+1]``, the costs of all segments up to an exit.
        head: ``[E+1]``, the costs of a head and its decision.
        price: accuracy for a cost of 1.
        coefficients: ``[E, K, E+2]``; receives the values at the knots of stopping (place 0) and of going on by m exits
            (place m).
        returns: ``[N, E+1]``; receives the realised returns of the samples from their arrival at an exit on.
    """
    samples, last = right.shape
    knots = mass.shape[1]
    for n in range(samples):
        returns[n, last - 1] = right[n, last - 1]
    sums, mean, centred = np.empty((knots, last + 1)), np.empty(last + 1), np.empty((knots, last + 1))
    way = np.empty(last + 1)
    for exit in range(last - 1, 0, -1):
        count = last - exit + 1  # stop, or go on by 1 .. last - exit
        own_left, own_weight = left[exit - 1], weight[exit - 1]
        for a in range(count):
            way[a] = price * (reach[exit - 1 + a] - reach[exit - 1])
            mean[a] = 0.0
            for k in range(knots):
                sums[k, a] = 0.0
        for n in range(samples):
            at, share = own_left[n], own_weight[n]
            for a in range(count):
                target = float(right[n, exit - 1]) if a == 0 else returns[n, exit + a - 1] - way[a]
                mean[a] += target
                sums[at, a] += (1.0 - share) * target
                sums[at + 1, a] += share * target
        own = coefficients[exit - 1]
        for a in range(count):
            mean[a] /= samples
            for k in range(knots):
                centred[k, a] = sums[k, a] - mass[exit - 1, k] * mean[a]
        for k in range(knots):
            for a in range(count):
                total = mean[a]
                for j in range(knots):
                    total += inverse[exit - 1, k, j] * centred[j, a]
                own[k, a] = total
        for n in range(samples):
            at, share = own_left[n], own_weight[n]
            best, choice = -np.inf, 0
            for a in range(count):
                value = (1.0 - share) * own[at, a] + share * own[at + 1, a]
                if value > best:
                    best, choice = value, a
            target = float(right[n, exit - 1]) if choice == 0 else returns[n, exit + choice - 1] - way[choice]
            returns[n, exit - 1] = target - price * head[exit - 1]


@compiled
def climb(order, scores, right, reach, head, price, stops, rank, here, value):
    """Improve the thresholds of each head, one exit at a time, until no change of one threshold improves the return.

    The return of a sample is its right answer minus the price of its path. The samples that reach an exit depend on the
    earlier thresholds, and the returns of going on depend on the later ones: with both fixed, one pass over the sorted
    samples finds the best threshold of the exit. The sum of the returns rises with every change, so that the loop ends.

    Args:
        order: ``[E, N]``, the samples by falling score.
        scores: ``[E, N]``, their scores in this order.
        right, reach, head, price: as of :func:`fit_backward`.
        stops: ``[E]``, the number of samples, by falling score, at or above the threshold of an exit; 0: the exit is
            not tried and costs nothing. Changed in place.
        rank, here, value: ``[E, N]``, ``[N]``, ``[N]``: room.

    Returns:
        The sum of the returns of the samples.
    """
    exits, samples = order.shape
    for exit in range(exits):
        for place in range(samples):
            rank[exit, order[exit, place]] = place
    changed = True
    while changed:
        changed = False
        for n in range(samples):
            value[n] = right[n, exits] - price * reach[exits]  # the return of going on past the exit at hand
            here[n] = exits
            for exit in range(exits):
                if rank[exit, n] < stops[exit]:
                    here[n] = exit
                    break
        for exit in range(exits - 1, -1, -1):
            arriving = 0
            for n in range(samples):
                arriving += here[n] >= exit
            gain, best, found = -price * head[exit] * arriving, 0.0, 0
            least = 1e-9 * samples
            for place in range(samples):
                n = order[exit, place]
                if here[n] >= exit:
                    gain += right[n, exit] - price * reach[exit] - value[n]
                # Equal scores stop together, also where the last of them does not arrive here.
                distinct = place + 1 == samples or scores[exit, place + 1] < scores[exit, place]
                if distinct and gain > best + least:
                    best, found = gain, place + 1
            old = stops[exit]
            if found != old:
                # Keep the old threshold where the new one is no better: else two equal ones could alternate for ever.
                if old > 0:
                    before = -price * head[exit] * arriving
                    for place in range(old):
                        n = order[exit, place]
                        if here[n] >= exit:
                            before += right[n, exit] - price * reach[exit] - value[n]
                else:
                    before = 0.0
                if best > before + least:
                    stops[exit] = found
                    changed = True
            if stops[exit] > 0:
                for n in range(samples):
                    if rank[exit, n] < stops[exit]:
                        value[n] = right[n, exit] - price * reach[exit]
                    value[n] -= price * head[exit]
    total = 0.0
    for n in range(samples):
        total += value[n]
    return total
