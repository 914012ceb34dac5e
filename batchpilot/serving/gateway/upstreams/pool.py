"""Several upstreams: which of them a request goes to, and where it goes when that one does not answer. Times in ms."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchpilot.fleet import rules
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.member import Member
from batchpilot.serving.gateway.own_routes import AskedError
from batchpilot.serving.gateway.upstreams.canary import Ladder
from batchpilot.serving.gateway.upstreams.experiment import Variant, assigned, place
from batchpilot.serving.gateway.upstreams.journey import SitesJourney, Wish
from batchpilot.serving.gateway.upstreams.prefixes import blocks_of
from batchpilot.serving.gateway.upstreams.site import Site
from batchpilot.serving.gateway.upstreams.spec import PREFIX, ROUTERS, USER_HASH, FleetSettings
from batchpilot.serving.gateway.upstreams.users import home_of
from batchpilot.serving.gateway.upstreams.views import gate_for, look, new_views
from batchpilot.serving.gateway.waiting import Ticket
from batchpilot.serving.gateway.ways import VERSION_HEADER, Journey

_ANY = -1


class Pool:
    """Chooses among sites by a rule of `batchpilot.fleet.rules`, on what is seen of them at that moment.

    Args:
        sites: the upstreams.
        fleet: how they share requests.
        now_ms: the clock.
        draws: of the rules that draw, and of users without a name.

    Attributes:
        sites: as given.
        fleet: as given.
        now_ms: as given.
        ladder: the roll-out that was asked for last, None before.
        variants: what came of each version's requests.
        retries: requests that went on to another upstream.
        degraded: requests that were answered by tier 1 for lack of tier 0.
        blocks: see `Ways`.
    """

    def __init__(
        self, sites: Sequence[Site], fleet: FleetSettings, now_ms: Callable[[], float], draws: random.Random
    ) -> None:
        self.sites = list(sites)
        self.fleet, self.now_ms = fleet, now_ms
        self.ladder: Ladder | None = None
        self.variants = {site.spec.version: Variant() for site in sites}
        self.retries = self.degraded = 0
        self.blocks: Callable[[Mapping[str, Any]], tuple[int, ...]] | None = (
            blocks_of if fleet.router == PREFIX else None
        )
        self._rule = ROUTERS[fleet.router]
        self._draws = draws
        self._views = new_views(self.sites)
        self._numbers = itertools.count()
        self._turn = -1
        if fleet.canary is not None:
            self.roll_out(*fleet.canary)

    def journey(self, asked: Completion | None, headers: Mapping[str, str]) -> Journey:
        """See `Ways`.

        Raises:
            AskedError: it asks for a version that no upstream has.
        """
        user = (asked.user if asked is not None else "") or headers.get(self.fleet.user_header, "")
        version, bound = self._version(asked, headers, user)
        return SitesJourney(self, Wish(next(self._numbers), asked, user, version, bound))

    def choose(self, wish: Wish, tried: Sequence[int], *, well_only: bool = False) -> int:
        """The site that takes a request next, -1 when all that may answer it were tried.

        Args:
            wish: the request.
            tried: sites that did not answer it.
            well_only: leave out who is not believed to be well, as somebody is who had no room.
        """
        asked = wish.asked
        look(self._views, self.sites, asked, predicts=self._rule in (rules.PREDICTED_TTFT, rules.PREFIX))
        for index in tried:
            self._views[index].tried_by = wish.number
        ways = [(wish.version, 0), (wish.version, 1)]
        if not wish.bound and wish.version != _ANY:
            ways = [(wish.version, 0), (_ANY, 0), (_ANY, 1)]
        if asked is not None and self._late(wish, asked):
            ways = [ways[-1], *ways]
        for version, tier in ways:
            index = self._chosen(wish, version, tier)
            if index >= 0:
                self._turn = index
                return index
        if well_only:
            return -1
        # Nobody is believed to be well: who has not been tried is asked all the same.
        left = [
            index
            for index, site in enumerate(self.sites)
            if index not in tried and self._views[index].on and not (wish.bound and site.spec.version != wish.version)
        ]
        return left[wish.number % len(left)] if left else -1

    def heard(self, site: Site, ticket: Ticket) -> None:
        """A request has ended for its client.

        Args:
            site: that was asked last.
            ticket: of the request there.
        """
        now_ms, version = self.now_ms(), site.spec.version
        ttft_ms = math.nan if ticket.first_ms is None else ticket.first_ms - ticket.arrived_ms
        outcome = ticket.ended
        self.variants[version].hear(outcome, ttft_ms, now_ms - ticket.arrived_ms, kept=ticket.kept)
        refused = outcome.startswith("refused")
        if self.ladder is not None and (refused or outcome in ("finished", "failed")):
            failed = outcome == "failed"
            self.ladder.hear(version, failed=failed, kept=ticket.kept, refused=refused, now_ms=now_ms)

    def roll_out(self, old: int, new: int) -> None:
        """Begin to send users to another version.

        Args:
            old: version that they have.
            new: version that they shall have.
        """
        self.ladder = Ladder(new, old, self.now_ms(), 1000.0 * self.fleet.ladder_s)

    def suspects(self, member: Member) -> bool:
        """Whether an upstream is taken out by its health checks.

        Args:
            member: of one of the sites.
        """
        return any(site.health.suspected for site in self.sites if site.member is member)

    def sweep(self) -> None:
        """Look whether a roll-out goes on."""
        if self.ladder is not None:
            self.ladder.look(self.now_ms())

    def status(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "router": self.fleet.router,
            "retries": self.retries,
            "degraded": self.degraded,
            "upstreams": {site.name: site.status() for site in self.sites},
            "variants": {str(version): variant.status() for version, variant in self.variants.items()},
            "canary": None if self.ladder is None else self.ladder.status(),
        }

    def _chosen(self, wish: Wish, version: int, tier: int) -> int:
        prompt = wish.asked.prompt_tokens if wish.asked is not None else 1
        asked = rules.Asked(wish.number, prompt, version, tier, self.now_ms())
        if self.fleet.router == USER_HASH and wish.user:
            open_ones = [index for index, view in enumerate(self._views) if rules.may_take(view, asked)]
            return home_of(wish.user, {index: self.sites[index] for index in open_ones})
        rule = self._rule if wish.asked is not None else rules.ROUND_ROBIN
        return rules.choose(self._views, rule, asked, self._turn, self._draws.random(), self._draws.random())

    def _version(self, asked: Completion | None, headers: Mapping[str, str], user: str) -> tuple[int, bool]:
        """The version that a request should have, and whether no other will do."""
        wanted = headers.get(VERSION_HEADER.decode())
        if wanted is not None:
            if wanted not in {str(version) for version in self.variants}:
                known = ", ".join(map(str, sorted(self.variants)))
                message = f"{VERSION_HEADER.decode()} is {wanted!r}; upstreams have the versions {known}"
                raise AskedError(400, message, "unknown_version")
            return int(wanted), True
        if asked is None or not (self.ladder or self.fleet.experiment):
            return _ANY, False
        at = place(user) if user else self._draws.random()
        return self.ladder.version_at(at) if self.ladder else assigned(self.fleet.experiment, at), False

    def _late(self, wish: Wish, asked: Completion) -> bool:
        """Whether every site of tier 0 that may take a request is predicted to break its promise."""
        wanted = rules.Asked(wish.number, asked.prompt_tokens, wish.version, 0, self.now_ms())
        open_ones = [site for site, view in zip(self.sites, self._views, strict=True) if rules.may_take(view, wanted)]
        return bool(open_ones) and all(self._is_late(site, asked) for site in open_ones)

    def _is_late(self, site: Site, asked: Completion) -> bool:
        gate = gate_for(site, asked)
        needs_ms = gate.service.first_token_ms(gate.queued_tokens + asked.prompt_tokens)
        return bool(gate.inside) and needs_ms > self.fleet.degrade * asked.slo.ttft_ms
