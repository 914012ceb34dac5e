"""Length distributions fitted to published traces: the quantiles below are all that is kept of them.

Source: Azure LLM inference trace 2023 (AzurePublicDataset, CC-BY 4.0), Patel et al., Splitwise, ISCA 2024; 19,366
conversation and 8,819 code requests, through `fit_lengths` with the levels and bands that stand here.

The conversation trace has outputs near 400 tokens for prompts near 1,100 and short ones elsewhere, which no single
correlation can say: it gets ten bands. In the code trace prompts and outputs are independent (rank correlation -0.02).
"""

from __future__ import annotations

from batchpilot.workloads.lengths import Knots, Lengths

# fmt: off
PROMPT_LEVELS = (
    0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5,
    0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0,
)
"""Levels of the prompt knots."""

OUTPUT_LEVELS: dict[str, tuple[float, ...]] = {
    "azure-conv": (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0),
    "azure-code": (
        0.0, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0,
    ),
}
"""Levels of the output knots; few where every band has its own, more where one curve must say it all."""

_PROMPTS: dict[str, tuple[int, ...]] = {
    "azure-conv": (
        2, 29, 91, 181, 207, 372, 387, 396, 403, 703, 1020, 1071, 1130, 1189, 1315, 1876, 2734, 4083, 4098,
        4142, 6179, 14050,
    ),
    "azure-code": (
        3, 17, 35, 75, 147, 232, 386, 578, 770, 1075, 1469, 1909, 2433, 2744, 3192, 3920, 5188, 7303, 7436,
        7436, 7437, 7437,
    ),
}

_OUTPUTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "azure-conv": (
        (11, 12, 16, 67, 112, 161, 189, 217, 217, 295, 1000, 1000),
        (7, 14, 18, 18, 59, 76, 99, 162, 184, 217, 295, 436),
        (24, 53, 72, 80, 88, 96, 109, 131, 143, 171, 199, 200),
        (25, 51, 75, 81, 89, 99, 113, 140, 153, 200, 568, 739),
        (10, 35, 57, 82, 122, 395, 415, 448, 514, 609, 680, 921),
        (33, 64, 370, 379, 394, 406, 428, 477, 538, 667, 960, 1000),
        (28, 51, 363, 377, 393, 407, 429, 500, 569, 662, 1000, 1000),
        (26, 42, 60, 92, 180, 396, 417, 452, 523, 643, 954, 992),
        (15, 31, 44, 50, 70, 95, 138, 191, 233, 421, 602, 918),
        (17, 26, 30, 35, 43, 58, 87, 132, 154, 256, 671, 757),
    ),
    "azure-code": (
        (6, 6, 7, 9, 11, 13, 16, 20, 24, 29, 39, 55, 90, 171, 251, 359, 825, 1899),
    ),
}
# fmt: on

FITTED_LENGTHS: dict[str, Lengths] = {
    name: Lengths(
        Knots(PROMPT_LEVELS, _PROMPTS[name]), tuple(Knots(OUTPUT_LEVELS[name], band) for band in _OUTPUTS[name])
    )
    for name in _PROMPTS
}
"""Joint distributions of prompt and output tokens by the name of the trace."""
