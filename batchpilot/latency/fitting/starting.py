"""Where a fit starts: the document's initial values, and seeded points whose linear part is solved for.

Given k_b, k_s and s_e the model is linear in 1/p_max, w_0/p_max and the tau, all >= 0. So only these need guessing.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.residuals import FEASIBLE, NAMES, Floats, Problem, losses_of

_ROWS = 400
"""Observations that a start is found on; the fit itself uses all."""

_ROUNDS = 2
"""Solutions of a start: the last without the pull of what was an outlier of the one before."""

_ROUNDING = 1e-12
"""Relative error of a product that keeps products of nearly parallel columns from having no triangle."""

_LINEAR = ("tau_0", "tau_b", "tau_s", "tau_c", "tau_e")

_HALF_OF_EXPERTS = (8.0, 2048.0)
"""Range of s_e that starts are drawn from."""


def document_start(observations: Observations) -> Floats:
    """The document's initial values, in field order.

    P_max = p95(S/T), k_b = 0.1, k_s = 0.01, tau_0 = min(T)/2; w_1 is 1, because with P_max in tokens/ms the slope of T
    on S is in P_max already.

    Args:
        observations: usable ones, at least one.

    Source: throughput saturation document, initial values.
    """
    p_max = float(np.percentile(observations.tokens / observations.latency_ms, 95))
    return np.array([p_max, 0.1, 0.01, 0.0, 1.0, observations.latency_ms.min() / 2, 0.0, 0.0, 0.0, 0.0, 64.0])


def random_starts(problem: Problem, count: int, rng: np.random.Generator, outlier: float | None) -> Floats:
    """Starting points over the whole range of k_b and k_s, each with the best other parameters.

    Args:
        problem: what will be fitted.
        count: how many.
        rng: where k_b, k_s and s_e are drawn from, log-uniformly.
        outlier: residuals well above this count for little; None where each counts with its square.

    Returns:
        Parameters in field order, those of the lowest loss first, shape (count, 11).
    """
    observed = problem.observations
    rows = np.unique(np.linspace(0, len(observed) - 1, min(len(observed), _ROWS)).astype(np.intp))
    drawn = [("k_b", FEASIBLE["k_b"]), ("k_s", FEASIBLE["k_s"]), ("s_e", _HALF_OF_EXPERTS)]
    shares = rng.random((count, 2 if "s_e" in problem.fixed else 3)).T
    starts = np.zeros((count, len(NAMES)))
    starts[:, NAMES.index("w_1")] = 1.0
    for (name, (low, high)), share in zip(drawn, shares, strict=False):
        starts[:, NAMES.index(name)] = low * (high / low) ** share
    for name, value in problem.fixed.items():
        starts[:, NAMES.index(name)] = value
    losses = _solve(problem, observed[rows], problem.roots[rows], starts, outlier)
    return starts[np.argsort(losses, kind="stable")]


def _solve(problem: Problem, few: Observations, roots: Floats, starts: Floats, outlier: float | None) -> Floats:
    """Put the best other parameters beside k_b, k_s and s_e: non-negative least squares, without the pull of outliers.

    Args:
        problem: what will be fitted.
        few: observations to solve on, n of them.
        roots: square roots of their weights, shape (n,).
        starts: parameters in field order, shape (starts, 11), to be written into.
        outlier: as of `random_starts`.

    Returns:
        The loss of each start, shape (starts,).
    """
    from scipy.optimize import nnls  # loads longer than most commands run

    B, S, C, T = few.batch_size, few.tokens, few.context_tokens, few.latency_ms
    of = dict(zip(NAMES, starts.T[..., None], strict=True))
    per_throughput = 1.0 / (np.expm1(-of["k_b"] * B) * np.expm1(-of["k_s"] * S))
    terms = {"tau_0": 1.0, "tau_b": B, "tau_s": S, "tau_c": C, "tau_e": S / (S + of["s_e"])}
    solved_for = [name for name in _LINEAR if name not in problem.fixed]
    both = np.empty((len(starts), len(solved_for) + 3, len(T)))
    columns, target = both[:, :-1], both[:, -1]
    np.multiply(per_throughput, of["w_1"] * S, out=columns[:, 0])
    columns[:, 1] = 0.0 if problem.fixed.get("w_0") == 0 else per_throughput
    for place, name in enumerate(solved_for, 2):
        columns[:, place] = terms[name]
    target[:] = T - sum(problem.fixed[name] * terms[name] for name in _LINEAR if name in problem.fixed)
    plain = roots * problem.residuals(T, T)[1]
    weights, weighted = np.broadcast_to(plain, target.shape), np.empty_like(both)
    for _ in range(1 if outlier is None else _ROUNDS):
        np.multiply(both, weights[:, None], out=weighted)
        # Columns and target with few rows and the same products have the same solution, near enough for a start.
        products = weighted @ weighted.transpose(0, 2, 1)
        scales = np.sqrt(products.diagonal(axis1=1, axis2=2))
        scales[scales == 0] = 1.0
        products /= scales[:, None] * scales[..., None]
        products += _ROUNDING * np.eye(products.shape[1])
        solutions = np.zeros((len(starts), both.shape[1] - 1))
        for solution, triangle in zip(solutions, np.linalg.cholesky(products).transpose(0, 2, 1), strict=True):
            # It may give up on nearly parallel columns; the other starts do without this one.
            with suppress(RuntimeError):
                solution[:] = nnls(triangle[:, :-1], triangle[:, -1])[0]
        solutions *= scales[:, -1:] / scales[:, :-1]
        solved = (solutions[:, None] @ columns)[:, 0]
        if outlier is not None:
            weights = plain / np.sqrt(1.0 + ((solved - target) * plain / outlier) ** 2)
    p_max = np.clip(1.0 / np.maximum(solutions[:, 0], 1e-300), *FEASIBLE["p_max"])
    found = {"p_max": p_max, "w_0": solutions[:, 1] * p_max} | dict(zip(solved_for, solutions.T[2:], strict=True))
    for name, values in found.items():
        if name not in problem.fixed:
            starts[:, NAMES.index(name)] = values
    # Not what was solved for: p_max has bounds, and may be fixed.
    work_ms = (of["w_0"] + of["w_1"] * S) / of["p_max"] * per_throughput
    predicted = work_ms + sum(of[name] * terms[name] for name in _LINEAR)
    off = roots * problem.residuals(np.maximum(predicted, 1e-300), T)[0]
    pulled = problem.pulled(starts) * np.sqrt(len(few) / len(problem.observations))
    return losses_of(np.concatenate([off, pulled], axis=1), outlier)
