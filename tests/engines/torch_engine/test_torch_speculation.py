"""Drafts change how long an answer takes, never what it says: token for token if greedy, in distribution if drawn."""

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from scipy.stats import chisquare
from test_torch_engine import failing
from torch_workloads import (
    BLOCK,
    answered_prompts,
    assert_nothing_is_held,
    random_engine,
    random_limits,
    run_to_the_end,
    runner,
    steady_clock,
)
from transformers import LlamaConfig, LlamaForCausalLM

from batchpilot import Limits, RequestTable
from batchpilot.engines.scheduler.state import LENGTH
from batchpilot.engines.torch import LiveEngine, ModelRunner, Sampling, TorchEngine, TorchEngineConfig
from batchpilot.engines.torch.drafting.base import Drafts
from batchpilot.engines.torch.drafting.prompt_lookup import PromptLookup, continuation
from batchpilot.engines.torch.drafting.verification import joined, verify
from batchpilot.engines.torch.sampling import DRAFTED, SamplingTable, distribution, from_distribution, uniform


class HalfRight:
    """Drafts what will be said, with a wrong token now and then, and now and then nothing."""

    def __init__(self, prompts, answers, rng):
        self._prompts, self._answers, self._rng = prompts, answers, rng

    def follow(self, requests, computed, generated):
        pass

    def draft(self, asked):
        found = []
        for r, most, known, place in zip(asked.requests, asked.most, asked.known, asked.place, strict=True):
            text = asked.tokens.text(int(r), int(known))
            k = next(k for k, prompt in enumerate(self._prompts) if np.array_equal(prompt, text[: len(prompt)]))
            ids = self._answers[k][place : place + self._rng.integers(0, most + 1)].copy()
            wrong = self._rng.random(len(ids)) < 0.2
            found.append(np.where(wrong, (ids + 1) % 256, ids))
        return Drafts(np.array([len(ids) for ids in found]), np.concatenate(found).astype(np.int64))


def drafting_limits(rng):
    return random_limits(rng).replace(speculative_tokens=int(rng.integers(0, 7)))


def half_right_engine(seed):
    engine, expected, rng = random_engine(seed, mode="continuous")
    prompts = [engine.prompt(r) for r in range(len(expected))]
    engine._execution._drafter = HalfRight(prompts, [answer for _, answer in map(longest_answer, prompts)], rng)
    return engine, expected, rng


def longest_answer(prompt):
    return next(pair for pair in answered_prompts("tiny-llama") if np.array_equal(pair[0], prompt))


def run_drafting(engine, rng):
    accepted = failures = 0
    while not engine.finished:
        engine.set_limits(drafting_limits(rng))
        window, _ = engine.run_window(engine.now_ms + 6.0)
        accepted += window.accepted_tokens
        failures += window.failures
    return accepted, failures


def test_greedy_answers_are_those_of_the_model_whatever_is_drafted():
    accepted = 0
    for seed in range(40):
        engine, expected, rng = half_right_engine(seed)
        accepted += run_drafting(engine, rng)[0]
        assert_nothing_is_held(engine)
        for r, tokens in enumerate(expected):
            np.testing.assert_array_equal(engine.generated(r), tokens)
    assert accepted > 300


def test_running_out_of_memory_with_drafts_changes_no_token_and_leaks_nothing():
    failed = 0
    for seed in range(20):
        engine, expected, rng = half_right_engine(seed)
        with failing(lambda call, rng=rng: rng.random() < 0.2):
            failed += run_drafting(engine, rng)[1]
        assert_nothing_is_held(engine)
        for r, tokens in enumerate(expected):
            said = engine.generated(r)
            done = engine.state.requests[r].reason == LENGTH
            np.testing.assert_array_equal(said, tokens if done else tokens[: len(said)])
    assert failed > 20


def model_of(vocabulary, seed, layers=1):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, initializer_range=0.4, **sizes)
    return LlamaForCausalLM(config)


def small_runner(vocabulary, draft_noise=None):
    """A model, and another that is not quite the same to draft for it."""
    draft = None if draft_noise is None else model_of(vocabulary, 0)
    for parameter in () if draft is None else draft.parameters():
        parameter.data += draft_noise * torch.randn_like(parameter)
    model = model_of(vocabulary, 0)
    return ModelRunner(model, kv_capacity_tokens=4096, block_size=BLOCK, step_tokens=64, draft_model=draft)


def said_by(model, prompts, output, limits, config=None):
    table = RequestTable.from_arrays(np.zeros(len(prompts)), [len(prompt) for prompt in prompts], output)
    engine = TorchEngine(config or TorchEngineConfig(), table, model, prompts=prompts, clock=steady_clock())
    engine.set_limits(limits)
    window, done = engine.run_window(math.inf)
    assert done
    assert_nothing_is_held(engine)
    return np.array([engine.generated(r) for r in range(len(prompts))]), window


def random_prompts(n, vocabulary=64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(1, 40)) for _ in range(n)]


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_a_draft_model_that_is_the_model_itself_is_always_right(prefix_cache):
    prompts = random_prompts(12)
    prompts += [np.concatenate([prompts[0], prompts[1], [k]]) for k in range(4)]
    config = TorchEngineConfig(prefix_cache=prefix_cache)
    plain, _ = said_by(small_runner(64), prompts, 30, Limits(5, 40))
    drafted, window = said_by(
        small_runner(64, draft_noise=0.0), prompts, 30, Limits(5, 40, speculative_tokens=3), config
    )
    np.testing.assert_array_equal(drafted, plain)
    assert window.accepted_tokens > 0.99 * window.drafted_tokens
    assert window.accepted_length > 3.0
    assert window.generated_tokens == drafted.size


def test_a_draft_model_that_knows_little_changes_nothing_but_the_time():
    prompts = random_prompts(8)
    plain, slow = said_by(small_runner(64), prompts, 20, Limits(4))
    drafted, window = said_by(small_runner(64, draft_noise=0.05), prompts, 20, Limits(4, speculative_tokens=4))
    np.testing.assert_array_equal(drafted, plain)
    assert 0 < window.accepted_tokens < 0.9 * window.drafted_tokens
    assert window.steps < slow.steps


def test_a_draft_model_catches_up_with_what_was_said_without_it():
    table = RequestTable.from_arrays(np.zeros(3), 9, 60)
    engine = TorchEngine(TorchEngineConfig(), table, small_runner(64, draft_noise=0.0), clock=steady_clock())
    drafted = accepted = 0
    while not engine.finished:
        for tokens in (0, 4, 1):
            engine.set_limits(Limits(3, speculative_tokens=tokens))
            window, _ = engine.run_window(engine.now_ms + 4.0)
            drafted, accepted = drafted + window.drafted_tokens, accepted + window.accepted_tokens
    assert accepted > 0.99 * drafted > 40


def test_prompt_lookup_finds_what_repeats():
    text = np.array([7, 1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 8, 1, 2, 3])
    np.testing.assert_array_equal(continuation(text, 2), [6, 8])
    np.testing.assert_array_equal(continuation(text[:10], 9), [4, 5, 9, 1, 2, 3])
    assert len(continuation(np.array([1, 2, 3]), 4)) == len(continuation(np.array([5]), 4)) == 0
    np.testing.assert_array_equal(continuation(np.array([3, 3, 3, 3]), 2), [3])


def test_prompt_lookup_speeds_up_text_that_repeats_and_says_the_same():
    rng = np.random.default_rng(1)
    prompts = [np.tile(rng.integers(0, 8, 6), 6) for _ in range(4)]
    plain, slow = said_by(small_runner(8), prompts, 150, Limits(4))
    drafted, window = said_by(small_runner(8), prompts, 150, Limits(4, speculative_tokens=4))
    np.testing.assert_array_equal(drafted, plain)
    assert window.steps < 0.8 * slow.steps
    assert window.drafts < window.steps * 4, "where nothing is found nothing is drafted"


def chances(model, prompt, output, temperature):
    """The probability of every answer of some length by the model itself."""
    vocabulary, exact = model.config.vocab_size, {(): 1.0}
    for _ in range(output):
        longer = {}
        for answer, before in exact.items():
            ids = torch.tensor([[*prompt, *answer]])
            with torch.inference_mode():
                p = (model(ids).logits[0, -1].double() / temperature).softmax(-1)
            longer |= {(*answer, token): before * float(p[token]) for token in range(vocabulary)}
        exact = longer
    return exact


@pytest.mark.parametrize("drafter", ["draft model", "lookup"])
def test_drawn_answers_have_the_probabilities_of_the_model(drafter):
    vocabulary, output, n, temperature = 4, 4, 6000, 3.0
    prompt = np.array([1, 2, 3, 1, 2])
    config = TorchEngineConfig(sampling=Sampling(temperature=temperature, seed=5))
    model = small_runner(vocabulary, draft_noise=0.3 if drafter == "draft model" else None)
    answers, window = said_by(model, [prompt] * n, output, Limits(256, speculative_tokens=3), config)
    assert 0.1 < window.accepted_tokens / window.drafted_tokens < 0.95
    exact = chances(model_of(vocabulary, 0), prompt, output, temperature)
    codes = answers @ vocabulary ** np.arange(output - 1, -1, -1)
    counts = np.bincount(codes, minlength=vocabulary**output)
    expected = n * np.array([exact[answer] for answer in itertools.product(range(vocabulary), repeat=output)])
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 0.001


def verified(p, q, n, sampling, correct=True):
    """First tokens that n requests say whose drafts of three are drawn from q, and how many stood."""
    table = SamplingTable(1)
    table.set(0, sampling, stream=4)
    draws, place, drafted = table.draws[np.zeros(n, np.int64)], np.arange(n) * 10, 3
    guess = distribution(q.expand(n * drafted, -1), np.repeat(draws, drafted))
    places = np.repeat(place, drafted) + np.tile(np.arange(drafted), n)
    levels = uniform(np.repeat(draws["seed"], drafted), np.repeat(draws["stream"], drafted) ^ DRAFTED, places)
    ids = from_distribution(guess, levels).numpy()
    drafts = Drafts(np.full(n, drafted), ids, guess if correct else torch.ones_like(guess))
    accepted, chosen = verify(p.expand(n * (drafted + 1), -1), drafts, draws, place)
    said = joined(drafts, accepted, chosen)
    return said[np.cumsum(accepted + 1) - (accepted + 1)], accepted, said


P = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5])
Q = torch.tensor([0.0, 1.5, 1.0, 0.5, -2.0])


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.6, seed=3), Sampling(1.0, top_p=0.8)])
def test_rejection_sampling_says_what_the_model_would(sampling):
    table = SamplingTable(1)
    table.set(0, sampling, stream=0)
    first, accepted, said = verified(P, Q, 20_000, sampling)
    p, q = (distribution(one[None], table.draws)[0].numpy() for one in (P, Q))
    np.testing.assert_allclose(np.bincount(first, minlength=5) / len(first), p, atol=0.012)
    np.testing.assert_allclose(np.bincount(said, minlength=5) / len(said), p, atol=0.012)
    assert (accepted > 0).mean() == pytest.approx(np.minimum(p, q).sum(), abs=0.012)


def test_that_test_sees_a_wrong_correction():
    first = verified(P, Q, 20_000, Sampling(1.0), correct=False)[0]
    assert np.abs(np.bincount(first, minlength=5) / len(first) - P.softmax(-1).numpy()).max() > 0.03


def test_a_stop_token_within_a_draft_is_the_last_that_is_said():
    prompt, answer = answered_prompts("tiny-llama")[0]
    stop = int(answer[5])
    place = int(np.flatnonzero(answer == stop)[0])
    engine = LiveEngine(TorchEngineConfig(), runner(), room=4, clock=steady_clock())
    engine._execution._drafter = HalfRight([prompt], [answer], AlwaysRight())
    engine.set_limits(Limits(4, speculative_tokens=8))
    request = engine.submit(prompt, 16, sampling=Sampling(stop_token_ids=(stop,)))
    events = [event for step in run_out(engine) for event in step.events]
    assert [event.token for event in events] == answer[: place + 1].tolist()
    assert [event.finished for event in events] == [None] * place + ["stop"]
    assert {event.request for event in events} == {request}
    assert engine.state.requests["blocks"].sum() == 0


def run_out(engine):
    steps = []
    while not engine.idle:
        steps.append(engine.step())
    return steps


class AlwaysRight:
    def integers(self, low, high):
        return high - 1

    def random(self, n):
        return np.ones(n)


def test_log_probabilities_are_told_for_every_token_of_a_draft():
    prompt, answer = answered_prompts("tiny-llama")[3]
    told = {}
    for drafted in (0, 5):
        engine = LiveEngine(TorchEngineConfig(), runner(), room=4, clock=steady_clock())
        engine._execution._drafter = HalfRight([prompt], [answer], AlwaysRight())
        engine.set_limits(Limits(4, speculative_tokens=drafted))
        engine.submit(prompt, 12, sampling=Sampling(logprobs=2))
        steps = run_out(engine)
        told[drafted] = [event.logprobs for step in steps for event in step.events if event.token is not None]
        assert (len(steps) < 8) == (drafted > 0)
    assert len(told[0]) == len(told[5]) == 12
    for plain, drafted in zip(told[0], told[5], strict=True):
        assert drafted.chosen == pytest.approx(plain.chosen, abs=1e-4)
        assert [token for token, _ in drafted.likeliest] == [token for token, _ in plain.likeliest]


class OddThenEven:
    """A grammar: odd and even tokens in turn."""

    def __init__(self):
        self._taken = 0

    def allowed(self):
        return np.arange(256) % 2 == (self._taken + 1) % 2

    def take(self, token):
        assert token % 2 == (self._taken + 1) % 2
        self._taken += 1


def test_an_output_bound_by_a_grammar_is_not_drafted_and_its_neighbours_are():
    prompt, answer = answered_prompts("tiny-llama")[3]
    engine = LiveEngine(
        TorchEngineConfig(), runner(), room=4, clock=steady_clock(), grammars=lambda schema: OddThenEven()
    )
    engine._execution._drafter = HalfRight([prompt], [answer], AlwaysRight())
    engine.set_limits(Limits(4, speculative_tokens=5))
    bound = engine.submit(prompt, 10, sampling=Sampling(schema="{}", stop_token_ids=(999,)))
    free = engine.submit(prompt, 10)
    events = [event for step in run_out(engine) for event in step.events]
    said = {request: [e.token for e in events if e.request == request] for request in (bound, free)}
    assert [token % 2 for token in said[bound]] == [1, 0] * 5
    assert said[free] == answer[:10].tolist()
    assert engine.close_window().accepted_tokens > 4


def test_a_draft_model_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"draft model has 9 token ids, the model 64; .*same vocabulary"):
        ModelRunner(
            model_of(64, 0), kv_capacity_tokens=64, block_size=BLOCK, step_tokens=16, draft_model=model_of(9, 0)
        )


def test_a_draft_model_takes_its_part_of_the_memory():
    plain, drafting = small_runner(64), small_runner(64, draft_noise=0.0)
    assert drafting.memory.kv_mb_per_token == pytest.approx(2 * plain.memory.kv_mb_per_token)
    assert drafting.memory.fixed_mb == pytest.approx(2 * plain.memory.fixed_mb)
    assert isinstance(plain.drafter, PromptLookup)


def test_a_drafter_without_memory_drafts_nothing():
    prompts = random_prompts(3)
    model = small_runner(64, draft_noise=0.0)
    plain, _ = said_by(small_runner(64), prompts, 10, Limits(3))

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("injected")

    model.drafter._model.register_forward_pre_hook(out_of_memory)
    drafted, window = said_by(model, prompts, 10, Limits(3, speculative_tokens=4))
    np.testing.assert_array_equal(drafted, plain)
    assert window.drafts == window.failures == 0


def test_every_seed_repeats_what_it_said():
    config = TorchEngineConfig(sampling=Sampling(temperature=0.9, seed=2))
    first, second = (
        said_by(small_runner(64, draft_noise=0.1), random_prompts(6), 12, Limits(4, speculative_tokens=3), config)[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_a_run_to_the_end_keeps_no_blocks():
    engine, _, _ = half_right_engine(3)
    run_to_the_end(engine, Limits(8, speculative_tokens=6))
    assert_nothing_is_held(engine)
