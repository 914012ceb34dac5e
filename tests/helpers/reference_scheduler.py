"""A slow, plain scheduler written from DESIGN.md with lists and sorting, against which the compiled one is checked.

It shares no code with the kernels: queues are Python lists, the inverse of T is found by trying every token count, KV
blocks are counted afresh from what each request holds.
"""

import math
from dataclasses import dataclass, field

import numpy as np

MAX_TRIED_TOKENS = 5000


@dataclass
class Request:
    id: int
    arrival: float
    prompt: int
    output: int
    estimated: float
    ttft_target: float
    user: int
    priority: int
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    key: float = 0.0
    first: float = math.nan
    finish: float = math.nan
    reason: str = "unfinished"
    admitted: bool = False

    @property
    def need(self):
        return self.prompt + self.generated - self.computed


@dataclass
class Reference:
    requests: list
    latency: object
    estimate: object
    limits: object
    kv_blocks: int
    block_size: int = 16
    prefill: str = "chunked"
    discipline: str = "fcfs"
    concurrency: int = 0
    now: float = 0.0
    waiting: list = field(default_factory=list)
    running: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    arrived: int = 0
    virtual: float = 0.0
    user_finish: dict = field(default_factory=dict)
    long_last: bool = False
    preemptions: int = 0

    def blocks_for(self, tokens):
        return math.ceil(tokens / self.block_size)

    def free(self):
        return self.kv_blocks - sum(r.blocks for r in self.running)

    def T(self, B, S, C):
        return float(self.estimate.predict(B, S, C))

    def end(self, request, reason):
        request.reason, request.finish, request.blocks = reason, self.now, 0

    def ended(self):
        return sum(r.reason != "unfinished" for r in self.requests)

    def next_arrival(self):
        if self.arrived == len(self.requests):
            return math.inf
        if self.concurrency:
            return self.now if self.arrived - self.ended() < self.concurrency else math.inf
        return self.requests[self.arrived].arrival

    def key(self, r):
        if self.discipline == "sjf":
            return r.estimated
        if self.discipline == "spf":
            return r.prompt
        if self.discipline == "slo":
            return r.arrival + r.ttft_target - self.T(1, r.prompt, 0)
        if self.discipline == "fair":
            start = max(self.virtual, self.user_finish.get(r.user, 0.0))
            self.user_finish[r.user] = start + r.prompt + r.estimated
            return start
        if self.discipline == "priority":
            return (r.priority, r.arrival)
        return r.arrival

    def admit_arrivals(self):
        while self.next_arrival() <= self.now:
            r = self.requests[self.arrived]
            self.arrived += 1
            if self.concurrency:
                r.arrival = self.now
            limit = self.limits.max_queued_tokens
            queued = sum(u.prompt for u in self.waiting + self.running if u.generated == 0)
            if self.discipline == "priority" and r.priority == 2:
                queued *= 2
            if self.blocks_for(r.prompt + r.output - 1) > self.kv_blocks:
                self.end(r, "failed")
            elif limit is not None and queued >= limit:
                self.end(r, "refused_on_arrival")
            else:
                r.key = self.key(r)
                self.waiting.append(r)

    def latest(self, r):
        """When a request that waits becomes hopeless: from then on its prompt would come too late at any speed."""
        e = self.estimate
        fastest = e.tau_0 + e.tau_b + e.w_0 / e.p_max + r.prompt * (e.w_1 / e.p_max + e.tau_s)
        return r.arrival + self.limits.ttft_guard * r.ttft_target - fastest

    def refuse_hopeless(self, until):
        if self.limits.ttft_guard is None:
            return
        for r in [w for w in self.waiting if not w.admitted and self.latest(w) <= until]:
            self.waiting.remove(r)
            self.end(r, "refused_by_guard")
            r.finish = max(r.arrival, min(self.now, self.latest(r)))

    def head(self):
        return min(self.waiting, key=lambda r: (r.key, r.id))

    def preempt(self, r):
        self.running.remove(r)
        r.blocks = r.computed = 0
        self.waiting.append(r)
        self.preemptions += 1

    def largest_tokens(self, requests, context, target):
        budget = self.limits.token_budget or 2**30
        if self.T(requests, budget, context) <= target:
            return budget
        tried = np.arange(1, min(budget, MAX_TRIED_TOKENS) + 1)
        fitting = tried[self.estimate.predict(requests, tried, context) <= target]
        return int(fitting.max(initial=0))

    def reachable(self, target):
        sizes = [2**k for k in range(30) if 2**k < self.limits.batch_size] + [self.limits.batch_size]
        return any(self.T(size, size, 0) <= target for size in sizes)

    def step_tokens(self, others, tokens, context, joining_context):
        """Most tokens of a step that one more request joins."""
        budget = self.limits.token_budget or 2**30
        target = self.limits.step_target_ms
        if target is None or self.prefill != "chunked":
            return budget
        fitting = self.largest_tokens(others + 1, context + joining_context, target)
        if fitting > tokens:
            return fitting
        if others == 0 or not self.reachable(target):
            return budget
        so_far = self.T(others, tokens, context)
        if so_far > target and self.T(others + 1, tokens + 1, context + joining_context) <= so_far:
            return self.largest_tokens(others + 1, context + joining_context, so_far)
        return fitting

    def chunk(self, r, plan):
        context = sum(p.computed for p, _ in plan)
        used = sum(n for _, n in plan)
        room = self.step_tokens(len(plan), used, context, r.computed) - used
        budget = self.limits.token_budget or 2**30
        if r.need <= room:
            return r.need
        if self.prefill == "whole" and r.need <= budget:
            return 0
        return max(room, 0)

    def reserve(self, r, tokens, plan):
        """Blocks for a running request, preempting the least urgent unplanned ones."""
        target = self.blocks_for(r.computed + tokens)
        while target - r.blocks > self.free():
            planned = {p.id for p, _ in plan}
            victim = max((v for v in self.running if v.id not in planned), key=lambda v: (v.key, v.id))
            self.preempt(victim)
            if victim is r:
                return False
        r.blocks = max(r.blocks, target)
        return True

    def guard_refuses(self, r, first_chunk, plan):
        guard = self.limits.ttft_guard
        if guard is None or r.admitted:
            return False
        B = len(plan) + 1
        context = sum(p.computed for p, _ in plan)
        used = sum(n for _, n in plan)
        time = self.T(B, used + first_chunk, context)
        rest = r.prompt - first_chunk
        if rest > 0:
            full = self.step_tokens(len(plan), len(plan), context, first_chunk)
            room = max(full - len(plan), 1)
            time += (rest // room) * self.T(B, max(full, 1), context)
            if rest % room:
                time += self.T(B, len(plan) + rest % room, context)
        return self.now - r.arrival + time > guard * r.ttft_target

    def admit(self, r, tokens, plan):
        """Admit the head or refuse it by the guard; False if it has to wait for KV."""
        if self.guard_refuses(r, tokens, plan):
            self.waiting.remove(r)
            self.end(r, "refused_by_guard")
            return True
        if self.blocks_for(r.need) > self.free():
            return False
        self.waiting.remove(r)
        r.blocks, r.admitted = self.blocks_for(r.need), True
        self.virtual = max(self.virtual, r.key) if self.discipline != "priority" else 0.0
        self.running.append(r)
        plan.append((r, tokens))
        return True

    def plan_long(self, plan):
        budget = self.limits.token_budget or 2**30
        for r in list(self.running):
            if r.need >= 512:
                tokens = min(r.need, budget)
                if self.reserve(r, tokens, plan):
                    plan.append((r, tokens))
                return bool(plan)
        while not plan and self.waiting and len(self.running) < self.limits.batch_size:
            head = self.head()
            if head.need < 512 or not self.admit(head, min(head.need, budget), plan):
                break
        return bool(plan)

    def make_way(self):
        while self.waiting and self.head().priority == 0:
            head = self.head()
            if len(self.running) < self.limits.batch_size and self.blocks_for(head.need) <= self.free():
                return
            victim = max(self.running, key=lambda v: (v.key, v.id), default=None)
            if victim is None or victim.priority == 0:
                return
            self.preempt(victim)

    def plan(self):
        plan = []
        if self.discipline == "priority":
            self.make_way()
        before = self.preemptions
        if self.prefill == "selective" and not self.long_last and self.plan_long(plan):
            self.long_last = True
            return plan
        self.long_last = False
        most = min(self.limits.batch_size, self.limits.token_budget or 2**30)
        for r in list(self.running):
            if r in self.running and r.need == 1 and len(plan) < most and self.reserve(r, 1, plan):
                plan.append((r, 1))
        for r in list(self.running):
            if r not in self.running or r.need == 1 or any(p is r for p, _ in plan):
                continue
            if self.prefill == "selective" and r.need >= 512:
                continue
            if len(plan) >= self.limits.batch_size:
                break
            tokens = self.chunk(r, plan)
            if tokens == 0:
                break
            if self.reserve(r, tokens, plan):
                plan.append((r, tokens))
        if self.preemptions == before:
            self.admissions(plan)
        refusing = True
        while self.prefill == "selective" and not plan and refusing:
            waiting = len(self.waiting)
            if not self.plan_long(plan):
                self.admissions(plan)
            refusing = len(self.waiting) != waiting
        return plan

    def admissions(self, plan):
        while self.waiting and len(self.running) < self.limits.batch_size:
            head = self.head()
            if self.prefill == "selective" and head.need >= 512:
                break
            tokens = self.chunk(head, plan)
            if tokens == 0 or not self.admit(head, tokens, plan):
                break

    def commit(self, plan):
        B, S, C = len(plan), sum(n for _, n in plan), sum(r.computed for r, _ in plan)
        duration = float(self.latency.predict(B, S, C))
        self.steps.append((self.now, B, S, C, duration))
        self.now += duration
        for r, tokens in plan:
            r.computed += tokens
            if r.need == 0:
                r.generated += 1
                if r.generated == 1:
                    r.first = self.now
                if r.generated == r.output:
                    self.end(r, "length")
        self.running = [r for r in self.running if r.reason == "unfinished"]

    def run(self):
        while self.ended() < len(self.requests):
            self.admit_arrivals()
            self.refuse_hopeless(self.now)
            plan = self.plan()
            if plan:
                batch = (len(plan), sum(n for _, n in plan), sum(r.computed for r, _ in plan))
                self.refuse_hopeless(self.now + self.T(*batch))
            if plan:
                self.commit(plan)
            elif self.ended() < len(self.requests):
                assert self.next_arrival() < math.inf, "the reference is stuck"
                self.now = max(self.now, self.next_arrival())
        return self
