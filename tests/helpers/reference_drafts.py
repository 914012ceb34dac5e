"""The plain scheduler's drafts: how many tokens, what they take, how many are accepted."""

import numpy as np


def draws(seed):
    """L'Ecuyer's combined generator, numbers in [0, 1)."""
    rng = np.random.default_rng([seed, 3])
    a, b = int(rng.integers(1, 2147483563)), int(rng.integers(1, 2147483399))
    while True:
        a, b = 40014 * a % 2147483563, 40692 * b % 2147483399
        yield (a - b) % 2147483562 / 2147483562


class Drafts:
    """What decoding requests draft in a step."""

    def with_drafts(self, plan):
        """The decoding requests' plan with as many drafted tokens as are asked for and find room."""
        most, budget = self.limits.speculative_tokens, self.limits.token_budget or 2**30
        if most and plan and self.limits.step_target_ms is not None and self.prefill == "chunked":
            B, C = len(plan), sum(r.computed for r, _ in plan)
            target = self.limits.step_target_ms - self.speculation.draft_share * most * self.T(B, B, C)
            budget = self.largest_tokens(B, C, target)
        longer = []
        for r, tokens in plan:
            used = len(plan) + sum(self.drafts.values())
            slots = (r.blocks + self.free()) * self.block_size - r.computed - 1
            draft = min(most, r.output - r.generated - 1, budget - used, slots)
            if draft > 0 and r.generated > 0:
                self.drafts[r.id] = draft
                tokens += draft
                r.blocks = max(r.blocks, self.blocks_for(r.computed + tokens))
                self.evict()
            longer.append((r, tokens))
        return longer

    def drafting(self, plan, latency):
        """What the drafter takes: a share of the model's step a drafted token, for those who draft."""
        contexts = [r.computed for r, _ in plan if r.id in self.drafts]
        if not contexts:
            return 0.0
        one = float(latency.predict(len(contexts), len(contexts), sum(contexts)))
        return self.speculation.draft_share * max(self.drafts.values()) * one

    def drawn(self, drafted):
        """How many leading tokens of a draft are accepted."""
        level, accepted, here = next(self.draws), 0, self.speculation.acceptance
        reached = here
        while accepted < drafted and level < reached:
            accepted, here = accepted + 1, here * self.speculation.decay
            reached *= here
        return accepted
