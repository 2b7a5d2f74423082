"""Settings: the published values are the defaults, and each can be changed by its path."""

import pytest

from pipeline.saliency.refine.config import RefineConfig
from pipeline.saliency.refine.presets import BUDGETS, paper
from pipeline.saliency.refine.settings import apply_settings


def test_the_defaults_are_those_of_the_spec():
    config = paper()
    one, two, crf = config.phase_one, config.phase_two, config.crf
    assert config.network.size == 432
    assert (one.rounds, one.epochs, one.poly_power, one.beta) == (3, 25, 0.9, 1.0)
    assert two.poly_power == 0.9  # as coded: the rate falls in this phase too
    assert one.learning_rates == (1e-6, 2e-6, 5e-6)
    assert dict(one.thresholds) == {"mc": 0.31, "hs": 0.36, "dsr": 0.23, "rbd": 0.25}
    assert (one.later_threshold, one.keep, one.effective_batch) == (0.5, 0.7, 20)
    assert (two.epochs, two.learning_rate, two.beta, two.threshold) == (200, 1e-4, 4.0, 0.5)
    assert two.effective_batch == 100
    assert (crf.iterations, crf.near_sigma, crf.near_weight) == (5, 3.0, 3.0)
    assert config.start.epochs == 0
    assert not one.correct_history
    assert (config.student.methods_weight, config.student.teacher_fusion) == (0.0, 0.0)
    assert (config.student.teacher_crf, config.student.teacher_cut) == (True, False)
    assert (config.student.crf_test, config.student.cut_test) == (False, False)
    assert (crf.colour_sigma_xy, crf.colour_sigma_rgb, crf.colour_weight) == (80.0, 13.0, 10.0)


def test_thresholds_are_the_methods_own_in_the_first_round_alone():
    phase = RefineConfig().phase_one
    assert [phase.threshold("mc", number) for number in (1, 2, 3)] == [0.31, 0.5, 0.5]
    assert phase.threshold("mbd", 1) == phase.other_threshold


@pytest.mark.parametrize("budget", BUDGETS)
def test_settings_change_what_they_name(budget):
    config = BUDGETS[budget]()
    changed = apply_settings(
        config,
        [
            "seed=7",
            "network.architecture=resnet34",
            "crf.near_sigma=2",
            "student.teacher_crf=false",
            "student.network.side=192",
            "phase_one.learning_rates=[1e-3, 1, 2e-3]",
            'phase_one.thresholds=[["hs", 0.4]]',
        ],
    )
    assert changed.seed == 7
    assert changed.network.architecture == "resnet34"
    assert changed.crf.near_sigma == 2.0
    assert changed.student.teacher_crf is False
    assert changed.student.network.side == 192
    assert changed.phase_one.learning_rates == (1e-3, 1.0, 2e-3)
    assert changed.phase_one.threshold("hs", 1) == 0.4
    assert changed.phase_two == config.phase_two


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("seed", "takes path=value"),
        ("network.sides=1", "unknown setting 'network.sides'; there are seed"),
        ("network=1", "unknown setting 'network'"),
        ("phase_one.epochs=2.5", "like 25"),
        ("phase_one.epochs=many", "like 25"),
        ("student.teacher_crf=1", "like true"),
        ("phase_one.learning_rates=[]", "learning_rates and beta must be above 0"),
        ('phase_one.learning_rates=["a", 1, 2]', "want a list like"),
        ('phase_one.thresholds=["mc", 0.3]', "want a list like"),
        ("phase_one.keep=1", "phase_one.keep must lie in 0..1, below 1, got 1"),
        ("student.learning_rate=nan", "want a value like 0.001"),
        ("phase_one.learning_rates=[1e-3, NaN]", "learning_rates and beta must be above 0"),
        ("phase_one.epochs=0", "phase_one.epochs must be at least 1"),
        ("phase_two.learning_rate=0", "must be above 0"),
        ("network.size=100", "multiple of 8"),
        ("network.architecture=vgg", "unknown network.architecture 'vgg'"),
        ("start.epochs=-1", "start.epochs must not be negative"),
        ("start.jitter=1.5", r"start.jitter must lie in 0..1"),
        ("student.teacher_fusion=2", "student.teacher_fusion must lie in 0..1"),
        ("student.methods_weight=-1.0", "student.methods_weight must be 0 or more, got -1.0"),
        ("student.lean_test=-6.0", "student.lean_test must lie in -5..5, got -6.0"),
        ("student.crop=0.2", "student.crop must lie in 0.5..1"),
        ("batch_size=1", "batch_size must be at least 2"),
    ],
)
def test_a_setting_that_will_not_do_is_refused_with_the_reason(setting, reason):
    with pytest.raises(ValueError, match=reason.replace("[", r"\[")):
        apply_settings(RefineConfig(), [setting])
