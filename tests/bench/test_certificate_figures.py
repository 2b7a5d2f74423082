"""From raw blocks to the certificate's values: the worst rank counts."""

import pytest

from bench.certificate.figures import (
    block_ratios,
    busy_shares,
    rate,
    ratio_error,
    reading_over_demand,
    stall_share,
    tail,
    tail_excess,
)
from bench.certificate.report import report
from bench.certificate.schedule import make_schedule
from bench.certificate.text import text


def block(kind, seconds, *, waiting=0.0, host=0.0, filled=None, read=0.0, checkpoints=0):
    asked = 2 * len(seconds)
    return {
        "kind": kind,
        "seconds": seconds,
        "host_waiting": host,
        "waiting": waiting,
        "busy": {"read": read, "decode": 0.1, "augment": 0.2},
        "places_asked": asked,
        "places_filled": asked if filled is None else filled,
        "epochs_crossed": 1 if kind == "FULL" else 0,
        "checkpoints": checkpoints,
    }


def rank(number=0, *, full=0.1, **of_full):
    blocks = []
    for _ in range(2):
        blocks += [block("SYNTHETIC", [0.1] * 4), block("FULL", [full] * 4, **of_full)]
    blocks += [block("SYNTHETIC", [0.1] * 4)]
    blocks += [block("COLD", [0.2] * 4), block("SYNTHETIC after COLD", [0.1] * 4)]
    return {
        "rank": number,
        "images_per_step": 8,
        "blocks": blocks,
        "reading": {"images": 800, "seconds": 1.0, "pages_stayed": 0.0},
        "cold": {"disk_bytes_per_second": 2e8, "disk_bytes": 1e8, "pages_stayed": 0.0},
    }


def schedule_of(steps):
    return make_schedule(
        steps=steps, steps_per_epoch=3, checkpoint_every=9, prefetch=2, device_type="cpu"
    )


def test_rates_are_images_over_the_time_of_counted_steps():
    one = rank(full=0.125)
    assert rate(one, "SYNTHETIC") == pytest.approx(80)
    assert rate(one, "FULL") == pytest.approx(64)
    assert block_ratios(one) == pytest.approx([0.8, 0.8])
    assert reading_over_demand(one) == pytest.approx(10)


def test_drift_of_the_machine_cancels_and_what_is_left_is_the_error():
    drifting = rank()
    for number, scale in ((0, 1.0), (1, 1.1), (2, 1.2), (3, 1.3), (4, 1.4)):
        drifting["blocks"][number]["seconds"] = [0.1 * scale] * 4
    assert block_ratios(drifting) == pytest.approx([1.0, 1.0])
    assert ratio_error(drifting) == pytest.approx(0, abs=1e-12)
    drifting["blocks"][4]["seconds"] = [0.166] * 4
    assert block_ratios(drifting) == pytest.approx([1.0, 1.1])
    assert ratio_error(drifting) == pytest.approx(0.05)


def test_a_longer_tail_is_told_from_noise_by_its_blocks():
    def noisy(every, times):
        made = {"images_per_step": 8, "blocks": []}
        for number in range(30):
            seconds = [0.1 + 0.01 * ((number + step) % 7) for step in range(10)]
            slow = [*seconds[:-1], seconds[-1] * (times if number % every == 0 else 1)]
            made["blocks"] += [block("SYNTHETIC", seconds), block("FULL", slow)]
        return made

    ratio, least = tail_excess(noisy(every=1, times=3))
    assert least == pytest.approx(ratio, rel=0.1)
    assert least > 2
    ratio, least = tail_excess(noisy(every=15, times=3))  # two steps of 300: noise may do that
    assert least == pytest.approx(1, abs=0.05)


def test_the_stall_share_is_the_larger_of_the_two_clocks():
    assert stall_share(rank(waiting=0.04)) == pytest.approx(0.1)
    assert stall_share(rank(waiting=0.04, host=0.08)) == pytest.approx(0.2)
    assert busy_shares(rank(read=0.3)) == pytest.approx(
        {"read": 0.75, "decode": 0.25, "augment": 0.5}
    )


def test_the_tail_is_over_all_blocks_of_a_kind():
    one = rank()
    one["blocks"][1]["seconds"] = [0.1, 0.1, 0.1, 0.3]
    assert tail(one, "SYNTHETIC") == pytest.approx(1)
    assert 2 < tail(one, "FULL") < 3


def test_the_worst_rank_counts_in_every_line():
    poor = rank(1, full=0.2, waiting=0.4, filled=4, read=0.7)
    poor["reading"] = {"images": 100, "seconds": 1.0, "pages_stayed": 0.9}
    result = report([rank(), poor], schedule_of(8))
    values = {line["key"]: line["value"] for line in result["lines"]}
    assert values["full_over_synthetic"] == pytest.approx(0.5)
    assert values["stall_share"] == pytest.approx(0.5)
    assert values["io_over_demand"] == pytest.approx(1.25)
    assert values["occupancy"] == pytest.approx(0.5)
    assert (result["verdict"], result["bottleneck"]) == ("FAIL", "read")
    assert result["images_per_second"]["full"] == pytest.approx(120)


def test_a_good_run_of_too_few_steps_is_incomplete_and_one_of_enough_passes():
    assert report([rank()], schedule_of(8))["verdict"] == "INCOMPLETE"
    passed = report([rank()], schedule_of(500))
    assert (passed["verdict"], passed["bottleneck"]) == ("PASS", "step")


def test_a_pass_that_was_not_cold_says_so():
    warm = rank()
    warm["cold"]["pages_stayed"] = warm["reading"]["pages_stayed"] = 0.9
    notes = {line["key"]: line["note"] for line in report([warm], schedule_of(8))["lines"]}
    assert "not cold: 90% of the pages stayed" in notes["cold_full_over_synthetic"]
    assert "NOT from the disk: 90% of the pages stayed" in notes["io_over_demand"]


def test_the_text_names_every_line_the_control_and_the_bottleneck():
    result = report([rank(full=0.2, read=0.9, waiting=0.4)], schedule_of(8)) | {
        "device": "cpu",
        "processes": 1,
        "cores": "cores set apart",
        "throttle": 0.5,
        "config": {"name": "tiny"},
        "environment": {"cpu": "a CPU", "cores": 2},
    }
    shown = text(result)
    for line in result["lines"]:
        assert line["title"] in shown
    assert "CONTROL: reading is throttled to 0.5 of the demand" in shown
    assert "bottleneck: read" in shown
    assert shown.splitlines()[-1] == "verdict: FAIL"
    assert "FULL / SYNTHETIC step rate" in shown
    assert "0.500   >= 0.97" in shown
