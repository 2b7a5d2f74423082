"""What processes find out together: none waits for one that was refused."""

import functools
from pathlib import Path

import pytest

from training.launch import World, run_processes
from training.runlock import held, locked
from training.together import from_main, resume_together

ALL_WELL = 0


def in_two_processes(check, *arguments):
    """Run `check(world, *arguments)`, which fails by an assertion, in two processes."""
    status = run_processes(
        functools.partial(_status_of, check),
        device_type="cpu",
        size=2,
        arguments=arguments,
        patience_seconds=60,
    )
    assert status == ALL_WELL


def _status_of(check, world, *arguments):
    check(world, *arguments)
    return ALL_WELL


def _value_and_refusal_come_from_rank_0(world):
    assert from_main(world, lambda: f"rank {world.rank}") == "rank 0"

    def refuse():
        raise OSError(f"rank {world.rank} cannot write")

    with pytest.raises(ValueError, match="rank 0 cannot write"):
        from_main(world, refuse)
    assert from_main(world, lambda: 3) == 3  # the group still works


def _steps_are_compared(world, out):
    assert resume_together(lambda: 4, out, world) == 4
    seen = iter([0, 4] if world.rank else [4, 4])  # a file that is seen late
    assert resume_together(lambda: next(seen), out, world, pauses=(0, 0)) == 4
    with pytest.raises(ValueError, match=r"step 4 on .+ \(rank 0\), none on .+ \(rank 1\); --out"):
        resume_together(lambda: 0 if world.rank else 4, out, world, pauses=(0, 0))

    def damaged():
        raise ValueError("no checkpoint can be read")

    with pytest.raises(ValueError, match=r"^no checkpoint can be read$"):
        resume_together(damaged, out, world)
    with pytest.raises(
        ValueError, match=r"step 4 on .+, no checkpoint can be read on .+ \(rank 1\)"
    ):
        resume_together(damaged if world.rank else lambda: 4, out, world, pauses=(0,))


def _a_taken_folder_is_refused_on_both(world, out):
    message = r"another run is writing to .+ \(process \d+ on "
    with pytest.raises(ValueError, match=message), held(out, world):
        raise AssertionError("held by the parent")


def test_values_and_refusals_of_rank_0_reach_all():
    in_two_processes(_value_and_refusal_come_from_rank_0)


def test_all_resume_at_one_step_or_none_does(tmp_path):
    in_two_processes(_steps_are_compared, tmp_path)


def test_one_process_asks_nobody(tmp_path):
    assert from_main(World(), lambda: 5) == 5
    assert resume_together(lambda: 6, tmp_path, World()) == 6
    with held(tmp_path / "run", World()):
        assert (tmp_path / "run").is_dir()


def test_a_run_directory_has_one_writer(tmp_path):
    with locked(tmp_path, wait=0):
        in_two_processes(_a_taken_folder_is_refused_on_both, tmp_path)
        with pytest.raises(ValueError, match="another run is writing"), locked(tmp_path, wait=0.3):
            pass
    with locked(tmp_path, wait=0):  # the file is still there, and means nothing
        assert Path(tmp_path, ".lock").exists()
