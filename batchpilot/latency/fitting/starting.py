"""Where a fit starts: the document's initial values, and seeded points whose linear part is solved for.

Given k_b, k_s and s_e the model is linear in 1/p_max, w_0/p_max and the tau, all >= 0. So only these need guessing.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.residuals import FEASIBLE, NAMES, Floats, Problem

_ROWS = 400
"""Observations that a start is found on; the fit itself uses all."""

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


def random_starts(problem: Problem, count: int, rng: np.random.Generator, outlier: float | None) -> list[Floats]:
    """Starting points over the whole range of k_b and k_s, each with the best other parameters.

    Args:
        problem: what will be fitted.
        count: how many.
        rng: where k_b, k_s and s_e are drawn from, log-uniformly.
        outlier: residuals well above this count for little; None where each counts with its square.

    Returns:
        Parameters in field order, shape (11,) each; fewer than `count` where the linear part could not be solved.
    """
    observed = problem.observations
    rows = np.unique(np.linspace(0, len(observed) - 1, min(len(observed), _ROWS)).astype(np.intp))
    few, roots = observed[rows], problem.roots[rows]
    (lowest_b, highest_b), (lowest_s, highest_s) = FEASIBLE["k_b"], FEASIBLE["k_s"]
    starts = []
    experts = "s_e" not in problem.fixed
    for share_b, share_s, *share_e in rng.random((count, 3 if experts else 2)):
        k_b = problem.fixed.get("k_b", lowest_b * (highest_b / lowest_b) ** share_b)
        k_s = problem.fixed.get("k_s", lowest_s * (highest_s / lowest_s) ** share_s)
        low, high = _HALF_OF_EXPERTS
        s_e = low * (high / low) ** share_e[0] if experts else problem.fixed["s_e"]
        # Solvers may give up on nearly parallel columns; the other starts do without this one.
        with suppress(RuntimeError, np.linalg.LinAlgError):
            starts.append(_solved(problem, few, roots, (k_b, k_s, s_e), outlier))
    return starts


def _solved(
    problem: Problem, few: Observations, roots: Floats, guessed: tuple[float, float, float], outlier: float | None
) -> Floats:
    """The best parameters at guessed k_b, k_s and s_e: non-negative least squares, without the pull of outliers."""
    from scipy.optimize import nnls

    B, S, C, T = few.batch_size, few.tokens, few.context_tokens, few.latency_ms
    k_b, k_s, s_e = guessed
    w_1 = problem.fixed.get("w_1", 1.0)
    per_throughput = 1.0 / (np.expm1(-k_b * B) * np.expm1(-k_s * S))
    terms = {"tau_0": np.ones_like(T), "tau_b": B, "tau_s": S, "tau_c": C, "tau_e": S / (S + s_e)}
    solved_for = [name for name in _LINEAR if name not in problem.fixed]
    fixed_work = np.zeros_like(T) if problem.fixed.get("w_0") == 0 else per_throughput
    columns = np.stack([w_1 * S * per_throughput, fixed_work, *(terms[name] for name in solved_for)])
    target = T - sum(problem.fixed[name] * terms[name] for name in _LINEAR if name in problem.fixed)
    weights = roots * problem.residuals(T, T)[1]
    scales = np.maximum(np.abs(columns * weights).max(axis=1), 1e-300)
    both = np.vstack([columns / scales[:, None], target])
    weighted = both * weights
    solution = np.zeros(len(columns))
    for again in range(1 if outlier is None else 4):
        if again:
            off = (solution @ both[:-1] - target) * weights
            weighted = both * (weights / np.sqrt(1.0 + (off / outlier) ** 2))
        # Columns and target with few rows and the same products have the same solution, near enough for a start.
        products = weighted @ weighted.T
        products.flat[:: len(products) + 1] *= 1.0 + _ROUNDING
        triangle = np.linalg.cholesky(products).T
        solution = nnls(triangle[:, :-1], triangle[:, -1])[0]
    solution /= scales
    low, high = FEASIBLE["p_max"]
    p_max = float(np.clip(1.0 / max(solution[0], 1e-300), low, high))
    found = dict(zip(solved_for, map(float, solution[2:]), strict=True))
    values = {
        "p_max": p_max,
        "k_b": k_b,
        "k_s": k_s,
        "w_0": float(solution[1]) * p_max,
        "w_1": w_1,
        "s_e": s_e,
        **found,
    }
    return np.array([problem.fixed.get(name, values.get(name, 0.0)) for name in NAMES])
