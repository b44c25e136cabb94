"""Speed of a step: from the hardware, then from finished jobs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemtune.machines import model_size
from gemtune.machines.throughput import Observation, Speed, copying, fit, roofline

PRIOR = Speed(30, 1e-3)


def observed(*pairs: tuple[float, float]) -> list[Observation]:
    return [Observation(tokens=tokens, seconds=seconds) for tokens, seconds in pairs]


def test_without_jobs_the_speed_is_that_of_the_hardware() -> None:
    assert fit([], PRIOR) is PRIOR


def test_jobs_of_two_sizes_tell_fixed_and_variable_time_apart() -> None:
    speed = fit(observed((1000, 60), (9000, 140), (5000, 100)), PRIOR)
    assert speed.jobs == 3
    assert speed.seconds(20_000) == pytest.approx(250, rel=0.05)
    assert speed.fixed == pytest.approx(50, rel=0.1)


def test_jobs_of_one_size_are_met_and_the_hardware_decides_the_rest() -> None:
    speed = fit(observed((1000, 62), (1000, 62)), PRIOR)
    assert speed.seconds(1000) == pytest.approx(62, rel=0.02)
    assert PRIOR.fixed < speed.fixed < 62
    assert speed.per_token > PRIOR.per_token


def test_newer_jobs_weigh_more() -> None:
    speed = fit(observed(*[(1000, 90)] * 5, *[(1000, 60)] * 3), PRIOR)
    assert 60 < speed.seconds(1000) < 68


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.01, 1e6)), min_size=1, max_size=20),
    st.floats(0.1, 1000),
    st.floats(0, 1),
)
def test_no_duration_is_negative(pairs: list[tuple[float, float]], fixed: float, per_token: float) -> None:
    speed = fit(observed(*pairs), Speed(fixed, per_token))
    assert speed.fixed >= 0
    assert speed.per_token >= 0


def test_nine_of_ten_plans_are_right_within_a_fifth_after_three_jobs() -> None:
    """Let the true speed be up to ten times off the hardware's, with 5% noise."""
    random_state, good, plans = random.Random(3), 0, 0
    for _ in range(100):
        fixed, per_token = 30 * random_state.uniform(0.2, 5), 1e-3 * 10 ** random_state.uniform(-1, 1)
        jobs = []
        for number in range(6):
            tokens = random_state.uniform(2e3, 2e5)
            seconds = (fixed + per_token * tokens) * random_state.gauss(1, 0.05)
            if number >= 3:
                plans += 1
                good += abs(fit(jobs, PRIOR).seconds(tokens) / seconds - 1) <= 0.2
            jobs.append(Observation(tokens=tokens, seconds=seconds))
    assert good >= 0.9 * plans


def test_a_larger_model_and_a_smaller_machine_are_slower() -> None:
    small, large = (model_size.by_name(f"google/gemma-3-{size}-it") for size in ("1b", "4b"))
    assert small is not None
    assert large is not None
    l4 = roofline("l4", small, "LoRA", cores=8)
    assert l4.per_token < roofline("l4", large, "LoRA", cores=8).per_token
    assert l4.per_token > roofline("rtx-pro-6000", small, "LoRA", cores=8).per_token
    assert l4.per_token < roofline("cpu", small, "LoRA", cores=8).per_token
    assert roofline("local", small, "LoRA", cores=2).per_token == 4 * roofline("cpu", small, "LoRA", cores=2).per_token
    # About 41% of the peak on an H100 gave 12,473 tokens/s for 8 billion parameters; an L4 has about an eighth of it.
    assert 1000 < 1 / l4.per_token < 30_000
    assert copying("l4", None).seconds(0) > 0
