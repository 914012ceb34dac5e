"""How many requests keep the pace that was promised, from what a gateway saw of steps and answers."""

from batchpilot.serving.gateway.service import ServiceModel


def test_step_target_bounds_the_concurrency_by_the_time_per_token():
    model = ServiceModel()
    for requests in (1, 4, 8, 12, 16) * 3:
        model.hear_step(requests, 10.0 + 2.0 * requests)
    assert model.keeps_pace(14, 40.0)
    assert not model.keeps_pace(16, 40.0)
    assert model.keeps_pace(20, 1000.0)
    assert not model.keeps_pace(60, 1000.0), "beyond what was seen it grows by a quarter at a time"
    assert model.keeps_pace(4, 0.1), "so few always go"
    assert not model.keeps_pace(5, 0.1)
    model.hear_answer(8, 10.0 + 2.0 * 8 + 300.0)
    assert not model.keeps_pace(14, 40.0), "answers that were slower than the line take a margin"


def test_concurrency_starts_slowly_under_a_step_target():
    model = ServiceModel()
    assert model.keeps_pace(4, 50.0)
    assert not model.keeps_pace(5, 50.0)
    reached = 4
    for _ in range(12):
        model.hear_crowd(reached)
        while model.keeps_pace(reached + 1, 50.0):
            reached += 1
    assert reached > 64


def test_one_step_that_took_seconds_does_not_close_the_door_for_good():
    model = ServiceModel()
    for _ in range(5):
        model.hear_step(1, 20.0)
    model.hear_step(3, 14_000.0)
    assert not model.keeps_pace(5, 50.0)
    for _ in range(1000):
        model.hear_step(2 if model.keeps_pace(5, 50.0) else 4, 20.0)
    assert model.keeps_pace(5, 50.0)


def lightly_loaded(answers):
    """A server of 50 ms a step, of whose steps each eighth computes a prompt of another request and takes 190 ms."""
    model = ServiceModel()
    for number in range(200):
        model.hear_step(3 + (number % 8 == 0), 190.0 if number % 8 == 0 else 50.0)
    for crowd, tpot_ms in answers:
        model.hear_answer(crowd, tpot_ms)
    return model


def test_prompts_at_light_load_do_not_keep_a_fifth_request_out():
    assert lightly_loaded([]).token_ms(5) > 105.0
    assert not lightly_loaded([(3.6, 70.0)] * 2).keeps_pace(5, 105.0)  # too few to know
    assert lightly_loaded([(3.6, 70.0)] * 5).keeps_pace(5, 105.0)


def test_answers_that_were_slow_or_had_few_beside_them_are_no_proof():
    assert not lightly_loaded([(3.6, 110.0)] * 20).keeps_pace(5, 105.0)
    assert not lightly_loaded([(3.6, 70.0), (3.6, 140.0)] * 5).keeps_pace(5, 105.0)
    assert not lightly_loaded([(2.0, 55.0)] * 20).keeps_pace(5, 105.0)


def test_answers_with_fewer_beside_them_count_as_slower_by_as_much_as_there_would_be_more():
    def keeps(tpot_ms):
        model = ServiceModel()
        for _ in range(50):
            model.hear_step(16, 101.0)
        for _ in range(5):
            model.hear_answer(16.0, tpot_ms)
        return model.keeps_pace(20, 100.0)

    assert keeps(79.0)
    assert not keeps(81.0), "81 ms of 16 are 101 of 20"


def test_answers_that_have_not_ended_are_asked_while_hardly_any_has():
    speaking = [(3.6, 85.0)] * 3
    assert lightly_loaded([]).keeps_pace(5, 105.0, speaking=speaking)
    assert not lightly_loaded([]).keeps_pace(5, 105.0, speaking=speaking[:2]), "too few to know"
    assert not lightly_loaded([(3.6, 110.0)] * 3).keeps_pace(5, 105.0, speaking=speaking), "three have ended"


def test_the_line_is_held_against_the_promise_not_against_a_target_for_steps_that_scatter():
    model = ServiceModel()
    for requests in (1, 8, 16, 24) * 3:
        model.hear_step(requests, 50.0 + 2.0 * requests)
    assert not model.keeps_pace(21, 70.0), "92 ms, and the target is all that is known"
    assert model.keeps_pace(21, 70.0, promised_ms=100.0)
    assert not model.keeps_pace(24, 70.0, promised_ms=100.0), "98 ms of 100, where 95 may be predicted"


def test_what_answers_prove_still_grows_a_quarter_at_a_time():
    assert not lightly_loaded([(40.0, 55.0)] * 20).keeps_pace(8, 105.0)


def test_what_answers_kept_is_held_against_the_promise_not_against_a_target_for_steps_that_scatter():
    model = lightly_loaded([(3.6, 120.0)] * 5)
    assert not model.keeps_pace(5, 105.0)
    assert model.keeps_pace(5, 105.0, promised_ms=150.0)
    assert not model.keeps_pace(5, 105.0, promised_ms=110.0)
    assert not model.keeps_pace(5, 80.0, promised_ms=float("inf")), "a request without a promise opens no door"
