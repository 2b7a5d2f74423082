import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.schedules import learning_rate, target_decay

RUN = {"base": 0.3, "global_batch_size": 4096, "warmup_steps": 3_120, "total_steps": 312_000}


def test_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    assert learning_rate(0, **RUN) == 0
    assert learning_rate(1_560, **RUN) == pytest.approx(4.8 / 2)
    assert learning_rate(3_120, **RUN) == pytest.approx(4.8)
    assert learning_rate(3_120 + 308_880 // 2, **RUN) == pytest.approx(2.4)
    assert learning_rate(3_120 + 308_880 // 3, **RUN) == pytest.approx(4.8 * 0.75)
    assert learning_rate(312_000, **RUN) == 0


def test_target_decay_rises_from_base_to_one():
    assert target_decay(0, base=0.996, total_steps=1000) == pytest.approx(0.996)
    assert target_decay(500, base=0.996, total_steps=1000) == pytest.approx(0.998)
    assert target_decay(1000, base=0.996, total_steps=1000) == 1


@given(
    total=st.integers(1, 500),
    warmup=st.integers(0, 600),
    base=st.floats(0, 1),
    batch=st.integers(1, 4096),
)
def test_schedules_stay_in_their_range_for_any_length(total, warmup, base, batch):
    peak = base * batch / 256
    for step in {0, 1, total // 2, total - 1}:
        rate = learning_rate(
            step, base=base, global_batch_size=batch, warmup_steps=warmup, total_steps=total
        )
        assert 0 <= rate <= peak
        decay = target_decay(step, base=base, total_steps=total)
        assert base - 1e-12 <= decay <= 1


def test_without_warmup_the_first_step_has_the_full_rate():
    settings = {"base": 0.2, "global_batch_size": 256, "warmup_steps": 0, "total_steps": 10}
    assert learning_rate(0, **settings) == pytest.approx(0.2)
