"""The harness by known answers: a clock that is told how long things take."""

import os

import pytest
import torch

from bench.environment import commit, environment, version_of
from bench.harness import (
    Built,
    Candidate,
    Measured,
    Unavailable,
    anywhere,
    copy_bandwidth,
    fastest,
    measure,
    pinned,
    repeated,
    wall_seconds,
)
from bench.rows import faster, pick, quantiles, ratio, ratios_of, row


class Bench:
    """Candidates whose work takes a known time on a clock of their own, and what was done."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def stopwatch(self, work):
        start = self.now
        work()
        return self.now - start

    def candidate(self, name, seconds, *, images=1, **fields):
        turns = iter([100.0, *seconds])  # the warm-up is dear, and must not count

        def run():
            self.calls.append(name)
            self.now += next(turns)

        return Candidate(
            name=name,
            what="waits",
            build=lambda: Built(run=run, note="a note"),
            images=images,
            bytes_per_image=3e6,
            **fields,
        )

    def measure(self, *candidates, rounds):
        return measure(
            candidates,
            rounds=rounds,
            stopwatch=self.stopwatch,
            placed=anywhere,
            announce=lambda _: None,
        )


def measured(name, *seconds):
    nothing = Candidate(
        name=name, what="", build=lambda: Built(run=list), images=1, bytes_per_image=1
    )
    return Measured(candidate=nothing, seconds=seconds)


def test_every_round_does_every_candidate_once_and_rotates_the_order():
    bench = Bench()
    bench.measure(*(bench.candidate(name, [1] * 4) for name in "abc"), rounds=4)
    assert "".join(bench.calls) == "abc" + "abc" + "bca" + "cab" + "abc"


def test_seconds_are_per_image_and_leave_the_warm_up_out():
    bench = Bench()
    (one,) = bench.measure(bench.candidate("a", [8.0, 4.0], images=4), rounds=2)
    assert one.seconds == (2.0, 1.0)


def test_a_row_has_quantiles_bytes_and_the_share_of_the_roof():
    bench = Bench()
    seconds = [0.010, 0.020, 0.040, 0.050, 0.100, 0.200]
    (one,) = bench.measure(bench.candidate("a", seconds, version="thing 1.0"), rounds=6)
    found = row(one, roof=1e9)
    assert found["milliseconds_per_image"] == pytest.approx({"p20": 20, "p50": 45, "p80": 100})
    assert found["images_per_second"] == pytest.approx({"p20": 10, "p50": 22.5, "p80": 50})
    assert found["gigabytes_per_second"] == pytest.approx(3e6 / 0.045 / 1e9)
    assert found["share_of_memory_roof"] == pytest.approx(3e6 / 0.045 / 1e9)
    assert (found["name"], found["version"], found["cores"]) == ("a", "thing 1.0", 1)
    assert found["what"] == "waits; a note"
    assert row(one)["share_of_memory_roof"] is None


def test_quantiles_lie_between_neighbours():
    assert quantiles([4, 1, 2]) == pytest.approx({"p20": 1.4, "p50": 2, "p80": 3.2})


def test_a_ratio_pairs_the_rounds():
    # the machine is three times slower in round 2; of the medians the ratio would be 10 / 3
    ours, theirs = measured("a", 1, 3, 3), measured("b", 10, 30, 6)
    assert ratio(ours, theirs) == 10
    assert ratio(theirs, ours) == pytest.approx(0.1)


def test_no_ratio_without_figures():
    assert ratio(measured("a", 1.0), measured("b")) is None
    pairs = {"a/b": (measured("a", 1.0), measured("b", 2.0)), "a/c": (measured("a", 1.0), None)}
    assert ratios_of(pairs | {"b/d": (measured("b", 1.0), measured("d"))}) == {"a/b": 2.0}


def test_a_work_may_say_itself_how_long_it_took():
    assert wall_seconds(lambda: 123.0) == 123.0
    assert 0 <= wall_seconds(lambda: None) < 100


def test_rows_are_picked_by_name_with_peers_or_without():
    bench = Bench()
    rows = [bench.candidate("ours", [1]), bench.candidate("theirs", [1], peer=True)]
    assert [each.name for each in pick((), rows)] == ["ours", "theirs"]
    assert [each.name for each in pick((), rows, peers=False)] == ["ours"]
    assert [each.name for each in pick(("theirs",), rows)] == ["theirs"]
    with pytest.raises(ValueError, match="--only 'x': no such row; choose from ours, theirs"):
        pick(("x",), rows)


def test_the_faster_of_several_has_figures_if_any_has():
    slow, fast, none = measured("slow", 3, 3), measured("fast", 1, 9, 1), measured("none")
    assert faster(slow, none, fast).candidate.name == "fast"
    assert faster(none, slow).candidate.name == "slow"


def failing(error):
    def build():
        raise error

    return build


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("No module named 'thing'"), "not installed: No module named 'thing'"),
        (RuntimeError("one line\nand more"), "RuntimeError: one line"),
        (ValueError(""), "ValueError: no message"),
        (Unavailable("needs 2 cores, 1 are available"), "needs 2 cores, 1 are available"),
    ],
)
@pytest.mark.parametrize("peer", [True, False])
def test_what_cannot_be_built_is_a_skipped_row(error, reason, peer):
    bench = Bench()
    good = bench.candidate("good", [1.0])
    bad = Candidate(
        name="bad", what="", build=failing(error), images=1, bytes_per_image=1, peer=peer
    )
    broken, fine = bench.measure(bad, good, rounds=1)
    mark = {} if peer or isinstance(error, Unavailable) else {"failed": True}
    assert row(broken) == {"name": "bad", "skipped": reason} | mark
    assert fine.seconds == (1.0,)


def test_what_fails_in_a_later_round_loses_all_its_figures():
    bench = Bench()
    bad = bench.candidate("bad", [1.0], peer=True)  # its list of times ends in round 2
    broken, fine = bench.measure(bad, bench.candidate("good", [1.0] * 3), rounds=3)
    assert broken.seconds == ()
    assert broken.skipped.startswith("StopIteration")
    assert len(fine.seconds) == 3
    assert bench.calls.count("bad") == 3  # the warm-up, a round, the failure; then no more


def test_repeated_work_is_a_larger_share_of_the_same():
    bench = Bench()
    (one,) = bench.measure(repeated(bench.candidate("a", [1.0] * 20, images=5), 3), rounds=2)
    assert one.candidate.images == 15
    assert one.seconds[1] == pytest.approx(3 / 15)


def test_the_fastest_variant_is_kept_by_its_median():
    bench = Bench()
    steady = bench.candidate("steady", [2, 2, 2]).build().run
    rash = bench.candidate("rash", [1, 9, 9]).build().run
    kept = fastest({"rash": rash, "steady": steady}, stopwatch=bench.stopwatch)
    assert (kept.run, kept.note) == (steady, "steady")


def test_pinned_work_has_its_cores_and_torch_as_many_threads():
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (before, threads)


def test_more_cores_than_there_are_is_said_and_changes_nothing():
    before = os.sched_getaffinity(0)
    with pytest.raises(Unavailable, match="needs 100000 cores"), pinned(100000):
        pytest.fail("ran")
    assert os.sched_getaffinity(0) == before


def test_a_copy_counts_reading_and_writing():
    assert copy_bandwidth(1, size=2**20, repeats=2) > 0


def test_the_environment_names_the_machine_and_what_is_absent(tmp_path):
    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["memory_gigabytes"] > 0
    assert found["date"].endswith("+00:00")
    assert version_of("no-such-package-anywhere") is None
    assert commit(tmp_path) is None
