"""When a sample holds the load's usual mix of prompt and output tokens."""

from batchpilot.tuners.probe.mix import WorkMix


def usual(prefill: float, generated: float) -> WorkMix:
    mix = WorkMix()
    for _ in range(50):
        mix.observe(prefill, generated)
    return mix


def test_a_sample_within_two_fifths_of_the_usual_mix_is_representative():
    mix = usual(600.0, 300.0)
    assert mix.is_represented(200.0, 100.0)
    assert mix.is_represented(279.0, 100.0)
    assert not mix.is_represented(281.0, 100.0)
    assert not mix.is_represented(119.0, 100.0)
    assert not mix.is_represented(0.0, 100.0)


def test_without_reported_prompts_every_window_is_representative():
    assert usual(0.0, 300.0).is_represented(0.0, 10.0)


def test_the_first_window_is_its_own_mix():
    mix = WorkMix()
    mix.observe(70.0, 30.0)
    assert mix.is_represented(70.0, 30.0)


def test_the_mix_follows_a_shift():
    mix = usual(600.0, 300.0)
    for _ in range(150):
        mix.observe(3000.0, 300.0)
    assert mix.is_represented(1000.0, 100.0)
