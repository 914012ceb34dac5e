"""Parts of several upstreams alone: specs, breaker, buckets, experiments, the ladder, prefixes, users' homes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httptools")

from batchpilot.fleet import RateLimit
from batchpilot.serving.gateway.upstreams.breaker import Breaker
from batchpilot.serving.gateway.upstreams.buckets import Buckets, key_of, parse_rate_limit
from batchpilot.serving.gateway.upstreams.canary import FEWEST_ENDED, SHARES, Ladder
from batchpilot.serving.gateway.upstreams.experiment import assigned, place
from batchpilot.serving.gateway.upstreams.prefixes import BLOCK_CHARACTERS, PrefixMemory, blocks_of
from batchpilot.serving.gateway.upstreams.spec import FleetSettings, UpstreamSpec, parse_upstream, read_upstreams
from batchpilot.serving.gateway.upstreams.users import home_of

A, B = UpstreamSpec("http://a:1"), UpstreamSpec("http://b:1", version=2)


class Named:
    """What a user's home is chosen by: an address and its spec."""

    def __init__(self, name, weight=1.0):
        self.name, self.spec = name, UpstreamSpec(name, weight=weight)


def test_an_upstream_is_read_as_it_is_typed():
    typed = parse_upstream("http://127.0.0.1:8000,weight=2.5,version=3,tier=1,model=small")
    assert typed == UpstreamSpec("http://127.0.0.1:8000", 2.5, 3, 1, "small")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://a:1,wieght=2", "'weight'"),
        ("http://a:1,weight=heavy", "weight is 'heavy'"),
        ("http://a:1,weight=0", "above 0"),
        ("http://a:1,weight=nan", "above 0"),
        ("http://a:1,version=-1", "version"),
        ("http://a:1,tier=2", "tier"),
        ("http://a:1,api_key_env=NOBODY_SET_THIS", "NOBODY_SET_THIS"),
    ],
)
def test_what_is_no_upstream_is_refused_in_words(text, said):
    with pytest.raises(ValueError, match=said):
        parse_upstream(text)


def test_a_file_lists_upstreams_as_addresses_or_mappings(tmp_path):
    file = tmp_path / "upstreams.yaml"
    file.write_text("upstreams:\n- http://a:1\n- {url: 'http://b:1', version: 2}\n")
    assert read_upstreams(file) == (A, B)
    for wrong in ("{}", "upstreams: 3", "- 3", "- {weight: 2}", "a: [", "[]"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=str(file)):
            read_upstreams(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"router": "fastest"}, "unknown routing rule"),
        ({"retries": -1}, "retries"),
        ({"breaker_failures": 0}, "breaker_failures"),
        ({"breaker_s": 0}, "breaker_s"),
        ({"health_s": math.nan}, "health_s"),
        ({"experiment": {3: 1.0}}, r"\[3\]"),
        ({"experiment": {0: -1.0, 2: 2.0}}, "shares"),
        ({"canary": (0, 3)}, "canary"),
        ({"canary": (2, 2)}, "canary"),
        ({"canary": (0, 2), "experiment": {0: 1.0}}, "leave one out"),
        ({"upstreams": (A, A)}, "named twice"),
        ({"upstreams": (UpstreamSpec("http://a:1", tier=1),)}, "tier 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        FleetSettings(**{"upstreams": (A, B), **changes})


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_when_its_time_is_up():
    breaker = Breaker(3, 100.0)
    for _ in range(2):
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(1.0)
    assert breaker.state(1.0) == "closed"
    breaker.failed(2.0)
    assert (breaker.state(2.0), breaker.state(101.0), breaker.state(102.0)) == ("open", "open", "half-open")
    breaker.sent(102.0)
    assert breaker.state(103.0) == "open"
    breaker.failed(104.0)
    assert (breaker.state(203.0), breaker.state(204.0)) == ("open", "half-open")
    breaker.succeeded()
    assert (breaker.state(0.0), breaker.opened) == ("closed", 1)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 300)), max_size=60))
def test_a_key_never_takes_more_than_its_burst_and_what_flows_in_but_for_one_debt(asked):
    buckets, now_s, taken, largest = Buckets(RateLimit(10.0, 50.0)), 0.0, 0.0, 0.0
    for passed_s, tokens in asked:
        now_s += passed_s
        if buckets.take("key", tokens, now_s) == 0.0:
            taken, largest = taken + tokens, max(largest, tokens)
    assert taken <= 50.0 + 10.0 * now_s + max(largest - 50.0, 0.0) + 1e-6


@given(st.floats(0.1, 300), st.floats(0.1, 300))
def test_who_comes_when_a_bucket_said_so_is_served(first, second):
    buckets = Buckets(RateLimit(10.0, 50.0))
    buckets.take("key", first, 0.0)
    wait_s = buckets.take("key", second, 0.0)
    assert buckets.take("other", second, 0.0) == 0.0
    assert not wait_s or buckets.take("key", second, wait_s + 1e-6) == 0.0


def test_rate_limits_and_keys_are_read():
    assert parse_rate_limit("1000,20000") == RateLimit(1000.0, 20000.0)
    for wrong in ("1000", "a,b", "0,1", "1,nan"):
        with pytest.raises(ValueError, match="TOKENS_PER_S,BURST"):
            parse_rate_limit(wrong)
    assert key_of({"authorization": "Bearer a", "x-api-key": "b"}) == "Bearer a"
    assert (key_of({"x-api-key": "b"}), key_of({})) == ("b", "")


def test_shares_of_an_experiment_hold_and_a_user_keeps_its_version():
    users = [f"user {number}" for number in range(20_000)]
    shares = {1: 6.0, 2: 3.0, 7: 1.0}
    versions = [assigned(shares, place(user)) for user in users]
    assert versions == [assigned(shares, place(user)) for user in users]
    for version, share in shares.items():
        # Six standard errors of a share.
        assert abs(versions.count(version) / len(users) - share / 10) < 6 * math.sqrt(0.25 / len(users))


def ended(ladder, version, requests, *, failed=False, kept=True, refused=False, now_ms=0.0):
    for _ in range(requests):
        ladder.hear(version, failed=failed, kept=kept and not failed, refused=refused, now_ms=now_ms)


def test_a_ladder_climbs_by_time_and_requests_and_promotes():
    ladder, now_ms = Ladder(2, 1, 0.0, 100.0), 0.0
    for share in SHARES:
        assert (ladder.share, ladder.verdict) == (share, "running")
        now_ms += 100.0
        ladder.look(now_ms)
        assert ladder.share == share, "no request has ended on it"
        ended(ladder, 2, FEWEST_ENDED, now_ms=now_ms)
    assert (ladder.verdict, ladder.share, ladder.version_at(0.999)) == ("promoted", 1.0, 2)


def test_a_ladder_goes_back_when_the_new_version_fails_more_than_the_old_one():
    ladder = Ladder(2, 1, 0.0)
    ended(ladder, 1, 200)
    ended(ladder, 2, 10)
    ended(ladder, 2, 2, failed=True)
    assert ladder.verdict == "running", "two are no proof"
    ended(ladder, 2, 1, failed=True)
    assert (ladder.verdict, ladder.share, ladder.version_at(0.0)) == ("rolled back", 0.0, 1)


def test_a_ladder_stays_where_both_versions_fail_alike():
    ladder = Ladder(2, 1, 0.0)
    for _ in range(50):
        for version in (1, 2):
            ended(ladder, version, 3)
            ended(ladder, version, 1, failed=True)
    assert ladder.verdict == "running"


@pytest.mark.parametrize("refused", [False, True])
def test_a_ladder_goes_back_at_the_end_of_a_share_on_which_the_new_version_kept_fewer_promises(refused):
    ladder = Ladder(2, 1, 0.0, 100.0)
    ended(ladder, 1, 180)
    ended(ladder, 1, 20, kept=False)
    ended(ladder, 2, 30)
    ended(ladder, 2, 12, kept=False, refused=refused)
    assert ladder.verdict == "running", "a share is judged once, at its end"
    ladder.look(100.0)
    assert (ladder.verdict, ladder.version_at(0.0)) == ("rolled back", 1)
    assert ladder.reason == "30 of 42 promises were kept at share 0.1, 180 of 200 of version 1"


def test_promises_that_were_broken_under_another_load_are_not_held_against_a_share():
    ladder = Ladder(2, 1, 0.0, 100.0)
    for version in (1, 2):  # a bad hour for both
        ended(ladder, version, 40)
        ended(ladder, version, 40, kept=False)
    ladder.look(100.0)
    assert ladder.share == SHARES[1]
    ended(ladder, 1, 100, now_ms=150.0)
    ended(ladder, 2, 90, now_ms=150.0)
    ended(ladder, 2, 4, kept=False, now_ms=150.0)
    ladder.look(250.0)
    assert (ladder.verdict, ladder.share) == ("running", SHARES[2]), "4 of 94 against 0 of 100 is 2.1 errors"


def test_versions_that_are_alike_are_seldom_told_apart():
    rng, back = np.random.default_rng(5), 0
    for _ in range(200):
        ladder, now_ms = Ladder(2, 1, 0.0, 1.0), 0.0
        while ladder.verdict == "running":
            now_ms += 1.0
            for version in (1, 2):
                kept = rng.random(60) < 0.8
                ended(ladder, version, int(kept.sum()), now_ms=now_ms - 0.5)
                ended(ladder, version, int((~kept).sum()), kept=False, now_ms=now_ms - 0.5)
            ladder.look(now_ms)
        back += ladder.verdict == "rolled back"
    assert 0 <= back <= 20  # five looks of 0.5 % each


@given(st.floats(0, 1, exclude_max=True))
def test_who_has_the_new_version_keeps_it_as_the_share_grows(at):
    ladder, had, now_ms = Ladder(2, 1, 0.0, 1.0), False, 0.0
    while ladder.verdict == "running":
        has = ladder.version_at(at) == 2
        assert has or not had
        had, now_ms = has, now_ms + 1.0
        ended(ladder, 2, FEWEST_ENDED, now_ms=now_ms)


def test_prompts_match_as_far_as_they_are_alike():
    beginning = "s" * (3 * BLOCK_CHARACTERS)
    memory = PrefixMemory()
    memory.remember(blocks_of({"prompt": beginning + "a" * BLOCK_CHARACTERS}))
    assert memory.matched(blocks_of({"prompt": beginning + "b" * BLOCK_CHARACTERS})) == 3
    assert memory.matched(blocks_of({"prompt": "x" + beginning})) == 0
    said = {"role": "user", "content": "c" * 500}
    turns = blocks_of({"messages": [said]}), blocks_of({"messages": [said, {"role": "user", "content": "more"}]})
    memory.remember(turns[0])
    assert memory.matched(turns[1]) >= len(turns[0]) - 1
    memory.forget()
    assert memory.matched(turns[0]) == 0


def test_of_what_was_sent_long_ago_the_ends_are_forgotten_before_the_beginnings():
    memory = PrefixMemory(most=5)
    old, new = tuple(range(4)), tuple(range(10, 13))
    memory.remember(old)
    memory.remember(new)
    assert (len(memory), memory.matched(new), memory.matched(old)) == (5, 3, 2)


def test_users_are_spread_by_weight_and_only_those_of_a_lost_upstream_move():
    sites = {0: Named("http://a"), 1: Named("http://b"), 2: Named("http://c", 2.0)}
    users = [f"user {number}" for number in range(8000)]
    homes = {user: home_of(user, sites) for user in users}
    for index, share in enumerate((0.25, 0.25, 0.5)):
        assert abs(list(homes.values()).count(index) / len(users) - share) < 6 * math.sqrt(0.25 / len(users))
    without = {index: site for index, site in sites.items() if index != 1}
    assert all(home_of(user, without) == home for user, home in homes.items() if home != 1)
    assert home_of("anybody", {}) == -1
