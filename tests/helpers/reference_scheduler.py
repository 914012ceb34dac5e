"""A slow, plain scheduler written from DESIGN.md with lists and sorting, against which the compiled one is checked.

It shares no code with the kernels: queues are Python lists, the inverse of T is found by trying every token count, what
is held by requests, images and drafts is told by the parts that it is made of.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from reference_blocks import Blocks
from reference_drafts import Drafts
from reference_images import Images

from batchpilot.core.refusals import BOUNDED, PROMOTED, RefusedShares

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
    contents: tuple = ()
    shared: list = field(default_factory=list)
    cached: int = 0
    latest: float = math.nan
    relegated: bool = False
    following: object = None
    think: float = 0.0
    has_come: bool = False
    images: list = field(default_factory=list)

    @property
    def need(self):
        return self.prompt + self.generated - self.computed


@dataclass
class Reference(Blocks, Images, Drafts):
    requests: list
    latency: object
    estimate: object
    limits: object
    kv_blocks: int
    block_size: int = 16
    prefill: str = "chunked"
    discipline: str = "fcfs"
    concurrency: int = 0
    conversations: bool = False
    now: float = 0.0
    waiting: list = field(default_factory=list)
    running: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    arrived: int = 0
    virtual: float = 0.0
    user_finish: dict = field(default_factory=dict)
    long_last: bool = False
    preemptions: int = 0
    prefix_cache: bool = False
    idle: list = field(default_factory=list)
    prompt_step: tuple = (-math.inf, 0.0)
    speculation: object = None
    draws: object = None
    drafts: dict = field(default_factory=dict)
    accepted: list = field(default_factory=list)
    tower: object = None
    features: list = field(default_factory=list)
    to_encode: list = field(default_factory=list)
    lookups: int = 0
    hits: int = 0
    encoded_ms: float = 0.0
    weights: dict = field(default_factory=dict)
    ceilings: dict = field(default_factory=dict)
    refused: RefusedShares = field(default_factory=RefusedShares)

    def T(self, B, S, C):
        return float(self.estimate.predict(B, S, C))

    def end(self, request, reason):
        request.reason, request.finish = reason, self.now
        self.release(request)
        if self.limits.refusal_bound is not None and reason.startswith("refused"):
            self.refused.decide(request.prompt, True)
        following = request.following
        if following is not None and reason == "length":
            following.arrival = self.now + following.think
        while following is not None and reason != "length":
            following.reason, following.finish = reason, self.now
            following = following.following

    def ended(self):
        return sum(r.reason != "unfinished" for r in self.requests)

    def coming(self):
        """Turns whose time is known and that have not come."""
        return [r for r in self.requests if not r.has_come and r.reason == "unfinished" and not math.isnan(r.arrival)]

    def next_arrival(self):
        if self.conversations:
            return min((r.arrival for r in self.coming()), default=math.inf)
        if self.arrived == len(self.requests):
            return math.inf
        if self.concurrency:
            return self.now if self.arrived - self.ended() < self.concurrency else math.inf
        return self.requests[self.arrived].arrival

    def key(self, r):
        key, bound = self.key_of_discipline(r), self.limits.refusal_bound
        first = bound is not None and self.discipline in BOUNDED and self.refused.goes_first(r.prompt, bound)
        return key - PROMOTED if first else key

    def key_of_discipline(self, r):
        if self.discipline == "value":
            return (r.prompt - r.cached) / max(r.estimated, 1.0)
        if self.discipline == "sjf":
            return r.estimated
        if self.discipline == "spf":
            return r.prompt - r.cached
        if self.discipline == "slo":
            return r.arrival + r.ttft_target - self.T(1, r.prompt - r.cached, r.cached) - self.lone_encode_ms(r)
        if self.discipline == "fair":
            start = max(self.virtual, self.user_finish.get(r.user, 0.0))
            self.user_finish[r.user] = start + (r.prompt - r.cached + r.estimated) / self.weights.get(r.user, 1.0)
            return start
        if self.discipline in ("priority", "vision"):
            return (r.priority, r.arrival)
        if self.discipline == "deadline":
            return (r.relegated, r.arrival + r.ttft_target + 8.0 * (r.prompt - r.cached))
        return r.arrival

    def turn_away(self, r):
        if self.discipline == "deadline":
            r.relegated = True
            r.key = (True, r.key[1])
        else:
            self.waiting.remove(r)
            self.end(r, "refused_by_guard")

    def delayed(self):
        """Whether it is too soon after a step with a prompt to let in more beside those who run."""
        end, duration = self.prompt_step
        return bool(self.running) and self.now < end + (self.limits.delay_factor or 0.0) * duration

    def admit_arrivals(self):
        while self.next_arrival() <= self.now:
            r = (
                min(self.coming(), key=lambda r: (r.arrival, r.id))
                if self.conversations
                else self.requests[self.arrived]
            )
            r.has_come = True
            if self.limits.refusal_bound is not None:
                self.refused.arrive(r.prompt)
            self.arrived += 1
            if self.concurrency:
                r.arrival = self.now
            limit = self.limits.max_queued_tokens
            queued = sum(u.prompt - u.cached for u in self.waiting + self.running if u.generated == 0)
            if self.discipline == "priority" and r.priority == 2:
                queued *= 2
            if self.blocks_for(r.prompt + r.output - 1) > self.kv_blocks:
                self.end(r, "failed")
            elif limit is not None and queued >= limit:
                self.end(r, "refused_on_arrival")
            else:
                self.look_up(r)
                r.cached = r.computed
                r.key = self.key(r)
                self.waiting.append(r)

    def latest(self, r):
        """When a request that waits becomes hopeless: from then on its prompt would come too late at any speed."""
        e = self.estimate
        fastest = e.tau_0 + e.tau_b + e.w_0 / e.p_max + (r.prompt - r.computed) * (e.w_1 / e.p_max + e.tau_s)
        return r.arrival + self.limits.ttft_guard * r.ttft_target - fastest - self.least_encode_ms(r)

    def refuse_hopeless(self, until):
        if self.limits.ttft_guard is None:
            return
        while due := [w for w in self.waiting if not w.admitted and not w.relegated and self.due(w) <= until]:
            r = min(due, key=lambda w: (self.due(w), w.id))
            self.look_up(r)
            r.latest = max(self.due(r), self.latest(r))
            if r.latest <= until:
                self.turn_away(r)
                r.finish = max(r.arrival, min(self.now, r.latest))

    def due(self, r):
        """When it was hopeless by what was cached when it was looked at."""
        if math.isnan(r.latest):
            r.latest = self.latest(r)
        return r.latest

    def may_join(self):
        """Who waits and whose tenant is below its ceiling."""
        run = [r.user for r in self.running]
        return [r for r in self.waiting if run.count(r.user) < self.ceilings.get(r.user, math.inf)]

    def head(self):
        return min(self.may_join(), key=lambda r: (r.key, r.id))

    def preempt(self, r):
        self.running.remove(r)
        self.release(r)
        r.computed = 0
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
        self.evict()
        return True

    def needed(self, r):
        """Free blocks that it takes to let a request in."""
        return self.blocks_for(r.prompt + r.generated) - len(self.held() & set(self.found(r)))

    def guard_refuses(self, r, first_chunk, plan):
        guard = self.limits.ttft_guard
        if guard is None or r.admitted or r.relegated:
            return False
        B = len(plan) + 1
        context = sum(p.computed for p, _ in plan)
        used = sum(n for _, n in plan)
        context += r.computed
        others = len(plan) + sum(self.drafts.values())
        drafting = self.drafting(plan, self.estimate)
        time = self.T(B, used + first_chunk, context) + drafting + self.encode_ms_with(r)
        rest = r.prompt - r.computed - first_chunk
        if rest > 0:
            full = self.step_tokens(len(plan), others, context, first_chunk)
            room = max(full - others, 1)
            time += (rest // room) * (self.T(B, max(full, 1), context) + drafting)
            if rest % room:
                time += self.T(B, others + rest % room, context) + drafting
        return self.now - r.arrival + time > guard * r.ttft_target

    def admit(self, r, tokens, plan):
        """Admit the head or refuse it by the guard; False if it has to wait for KV."""
        if self.guard_refuses(r, tokens, plan):
            self.turn_away(r)
            return True
        if self.needed(r) > self.free():
            return False
        self.waiting.remove(r)
        if not r.admitted:
            r.cached = r.computed
            if self.limits.refusal_bound is not None:
                self.refused.decide(r.prompt, False)
        r.shared = self.found(r)
        self.idle = [c for c in self.idle if c not in r.shared]
        self.look_at_images(r)
        if self.discipline == "vision":
            r.key = self.key(r)
        r.blocks, r.admitted = self.blocks_for(r.prompt + r.generated), True
        self.virtual = max(self.virtual, r.key) if self.discipline == "fair" else 0.0
        self.running.append(r)
        self.evict()
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
        while not plan and not self.delayed() and self.may_join() and len(self.running) < self.limits.batch_size:
            head = self.head()
            self.look_up(head)
            if head.need < 512 or not self.admit(head, min(head.need, budget), plan):
                break
        return bool(plan)

    def make_way(self):
        while self.may_join() and self.head().priority == 0:
            head = self.head()
            self.look_up(head)
            if len(self.running) < self.limits.batch_size and self.needed(head) <= self.free():
                return
            victim = max(self.running, key=lambda v: (v.key, v.id), default=None)
            if victim is None or victim.priority == 0:
                return
            self.preempt(victim)

    def plan(self):
        plan = []
        if self.discipline == "vision":
            self.vision_keys()
        self.drafts = {}
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
        if self.preemptions == before:
            plan = self.with_drafts(plan)
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
        if self.delayed():
            return
        while self.may_join() and len(self.running) < self.limits.batch_size:
            head = self.head()
            self.look_up(head)
            if self.prefill == "selective" and head.need >= 512:
                break
            tokens = self.chunk(head, plan)
            if tokens == 0 or not self.admit(head, tokens, plan):
                break

    def commit(self, plan):
        B, S, C = len(plan), sum(n for _, n in plan), sum(r.computed for r, _ in plan)
        duration = float(self.latency.predict(B, S, C)) + self.drafting(plan, self.latency)
        encoding = self.encode_ms(self.to_encode)
        self.encoded_ms += encoding
        self.steps.append((self.now + encoding, B, S, C, duration))
        self.now += encoding + duration
        if S - sum(self.drafts.values()) > B:
            self.prompt_step = (self.now, encoding + duration)
        for r, tokens in plan:
            if r.id in self.drafts:
                stands = self.drawn(self.drafts[r.id])
                self.accepted.append(stands)
                r.generated += stands
                tokens = 1 + stands
                r.blocks = self.blocks_for(r.computed + tokens)
            r.computed += tokens
            self.share(r, min(r.computed, r.prompt))
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
            self.to_encode = []
            self.refuse_hopeless(self.now)
            plan = self.plan()
            if plan:
                batch = (len(plan), sum(n for _, n in plan), sum(r.computed for r, _ in plan))
                drafting = self.drafting(plan, self.estimate)
                self.refuse_hopeless(self.now + self.T(*batch) + drafting + self.encode_ms(self.to_encode))
            if plan:
                self.commit(plan)
            elif self.ended() < len(self.requests):
                assert self.next_arrival() < math.inf, "the reference is stuck"
                self.now = max(self.now, self.next_arrival())
        return self
