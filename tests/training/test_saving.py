"""The writer of checkpoints: what it promises while a disk is slow, full or gone."""

import copy
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model import checkpoint
from model.lars import make_optimizer
from model.relicv2 import ReLICv2
from tests.model.test_checkpoint import assert_equal_states
from training.config import TrainConfig, apply_settings, to_dict
from training.meter import Diverged
from training.saving import CheckpointWriter, NotSaved

SETTINGS = (
    *("architecture=resnet18", "width=0.0625", "stem=small", "hidden_size=8", "embedding_size=6"),
    *("checkpoint_every=4", "keep_checkpoints=2"),
)
PATIENCE = 30  # seconds, for what takes milliseconds


class Bench:
    """A model that 'trains' by counting up, and a writer for it."""

    def __init__(
        self, out: Path, *settings: str, is_main: bool = True, end_step: int = 100
    ) -> None:
        self.out = out
        self.said: list[str] = []
        self.errors: list[Exception] = []
        self.config = apply_settings(TrainConfig(), [*SETTINGS, *settings])
        generator = torch.Generator().manual_seed(0)
        self.model = ReLICv2(self.config.model, generator=generator)
        self.optimizer = make_optimizer(self.model, self.config.optimizer)
        self.writer = CheckpointWriter(
            *(out, self.config, 3, end_step),
            is_main=is_main,
            say=self.said.append,
            fail=self.errors.append,
        )

    def step(self) -> None:
        for parameter in self.model.online.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def save(self, step: int) -> None:
        self.writer.save(step, self.model, self.optimizer)

    def captured(self, step: int) -> dict[str, Any]:
        """The live state, as it would be saved."""
        return checkpoint.capture(
            self.model, self.optimizer, step=step, config=to_dict(self.config)
        )


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "run")


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing waits until the event is set."""
    free, write = threading.Event(), checkpoint._write

    def slowly(path, content):
        assert free.wait(PATIENCE)
        write(path, content)

    monkeypatch.setattr(checkpoint, "_write", slowly)
    yield free
    free.set()


def fill_the_disk(out):
    """Let what is written there go to a device without any room."""
    out.mkdir(exist_ok=True)
    (out / ".unfinished.pt").symlink_to("/dev/full")


def writing_threads():
    return [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def until_checked(writer):
    """Go over step boundaries until the writer's thread has ended."""
    deadline = time.monotonic() + PATIENCE
    while writing_threads():
        assert time.monotonic() < deadline
        writer.check()
    writer.check()


def test_training_goes_on_while_a_step_is_written_and_does_not_change_it(bench, slow_disk):
    bench.step()
    expected = copy.deepcopy(bench.captured(1))
    bench.save(1)
    for _ in range(3):
        bench.step()
        bench.writer.check()
    assert checkpoint.latest(bench.out) is None
    slow_disk.set()
    bench.writer.wait()
    assert_equal_states(checkpoint.restore(bench.out).state, expected)
    now = bench.model.online.encoder.conv1.weight
    assert not torch.equal(now, expected["model"]["online.encoder.conv1.weight"])
    assert not writing_threads()


def test_files_are_those_of_a_save_without_a_thread(bench, tmp_path):
    for step in (4, 8):
        bench.step()
        checkpoint.save(tmp_path / "plain", step, bench.captured(step))
        bench.save(step)
        bench.step()  # at once, while the file is being written
    bench.writer.wait()
    for step in (4, 8):
        name = f"checkpoint-{step:08d}.pt"
        assert (bench.out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_save_waits_for_the_one_before_and_says_so_once(bench, slow_disk):
    bench.save(4)
    threading.Timer(0.2, slow_disk.set).start()
    bench.save(8)  # returns when step 4 is on the disk
    assert "checkpoint-00000004.pt" in names(bench.out)
    assert len(bench.said) == 1
    assert "step 8 waits for the checkpoint of step 4" in bench.said[0]
    assert "checkpoint_every=4 asks; set it higher" in bench.said[0]
    bench.writer.wait()
    slow_disk.clear()
    bench.save(12)
    threading.Timer(0.2, slow_disk.set).start()
    bench.save(16)
    bench.writer.wait()
    assert len(bench.said) == 1
    assert names(bench.out) == ["checkpoint-00000012.pt", "checkpoint-00000016.pt"]


@pytest.mark.parametrize("place", ["check", "save", "wait", "leaving"])
def test_a_full_disk_is_told_once_as_what_it_is_and_ends_the_saving(bench, place):
    def meet():
        if place == "check":
            until_checked(bench.writer)
        elif place == "save":
            bench.save(8)
        elif place == "wait":
            bench.writer.wait()
        else:
            with bench.writer:
                pass

    bench.save(3)
    bench.writer.wait()
    assert "step 3 is saved" in bench.writer.kept(3)
    fill_the_disk(bench.out)
    bench.save(4)
    meet()
    (error,) = bench.errors
    assert isinstance(error, NotSaved)
    assert re.fullmatch(
        rf"step 4 is not saved in {bench.out}: .*No space left.*run again to go on", str(error)
    )
    assert isinstance(error.__cause__, OSError)
    assert bench.writer.kept(4) == "what was saved before is kept"
    bench.writer.check()
    bench.save(8)  # even if there were room again: the run is ending
    bench.writer.wait()
    assert len(bench.errors) == 1
    assert names(bench.out) == ["checkpoint-00000003.pt"]


def test_a_folder_that_is_a_file_is_an_error_of_the_disk(tmp_path):
    bench = Bench(tmp_path / "file")
    (tmp_path / "file").write_text("")
    bench.save(4)
    bench.writer.wait()
    (error,) = bench.errors
    assert "step 4 is not saved in" in str(error)
    assert isinstance(error, OSError)


def test_a_directory_removed_while_it_is_written_to_is_written_anew(bench, monkeypatch):
    write, calls = checkpoint._write, []

    def removed_at_first(path, content):
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(bench.out)
        write(path, content)

    monkeypatch.setattr(checkpoint, "_write", removed_at_first)
    bench.save(4)
    bench.writer.wait()
    assert bench.errors == []
    assert checkpoint.restore(bench.out).state["step"] == 4


def test_what_was_saved_and_removed_is_saved_again_before_it_is_said_to_be(bench):
    bench.save(4)
    bench.writer.wait()
    shutil.rmtree(bench.out)
    bench.writer.finish(4, bench.model, bench.optimizer)
    assert bench.writer.kept(4) == "step 4 is saved, run again to go on"
    assert checkpoint.restore(bench.out).state["step"] == 4
    before = (bench.out / "checkpoint-00000004.pt").stat().st_mtime_ns
    bench.writer.finish(4, bench.model, bench.optimizer)
    assert (bench.out / "checkpoint-00000004.pt").stat().st_mtime_ns == before


def save_and_fail(bench, kind):
    with bench.writer:
        bench.save(4)
        raise kind("elsewhere")


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_elsewhere_leaves_no_thread_and_a_whole_file(bench, slow_disk, kind):
    threading.Timer(0.2, slow_disk.set).start()
    with pytest.raises(kind, match="elsewhere"):
        save_and_fail(bench, kind)
    assert not writing_threads()
    assert names(bench.out) == ["checkpoint-00000004.pt"]
    assert checkpoint.restore(bench.out).state["step"] == 4


def test_an_exception_elsewhere_is_not_hidden_by_a_full_disk(bench):
    fill_the_disk(bench.out)
    with pytest.raises(RuntimeError, match="elsewhere"):
        save_and_fail(bench, RuntimeError)
    assert bench.errors == []
    (line,) = bench.said
    assert line.startswith("beside that: step 4 is not saved")


def test_an_error_of_the_program_in_the_thread_is_raised_as_it_is(bench, monkeypatch):
    def broken(path, content):
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(checkpoint, "_write", broken)
    bench.save(4)
    bench.writer.wait()
    assert [repr(error) for error in bench.errors] == ["ZeroDivisionError('in the thread')"]


@pytest.mark.parametrize("where", ["weight", "statistics", "momentum"])
def test_what_is_not_finite_is_never_saved(bench, where):
    bench.save(4)
    bench.step()
    encoder = bench.model.online.encoder
    if where == "momentum":
        bench.optimizer.state[encoder.conv1.weight]["momentum_buffer"].view(-1)[0] = float("inf")
    else:
        tensor = encoder.conv1.weight if where == "weight" else encoder.bn1.running_var
        tensor.detach().view(-1)[0] = float("nan")
    bench.save(8)
    bench.writer.wait()
    (error,) = bench.errors
    assert isinstance(error, Diverged)
    assert re.search(r"not finite after step 8 \((model|optimizer)\..*\); the last", str(error))
    assert names(bench.out) == ["checkpoint-00000004.pt"]


def test_due_are_regular_steps_the_last_and_milestones(tmp_path):
    bench = Bench(tmp_path, "milestone_every=2", end_step=17)
    assert [step for step in range(1, 18) if bench.writer.due(step)] == [4, 6, 8, 12, 16, 17]
    plain = Bench(tmp_path, end_step=17)
    assert [step for step in range(1, 18) if plain.writer.due(step)] == [4, 8, 12, 16, 17]


def test_milestones_stay_with_their_encoders(tmp_path):
    bench = Bench(tmp_path / "run", "milestone_every=2")
    for step in range(1, 14):
        bench.step()
        if bench.writer.due(step):
            bench.save(step)
    bench.writer.wait()
    kept = [f"checkpoint-{step:08d}.pt" for step in (6, 8, 12)]
    encoders = [f"encoder-{step:08d}.{kind}" for step in (6, 12) for kind in ("json", "pt")]
    assert names(bench.out) == [*kept, *encoders]
    for step in (6, 12):
        saved = torch.load(bench.out / f"checkpoint-{step:08d}.pt", weights_only=True)["model"]
        encoder = checkpoint.load_encoder(bench.out / f"encoder-{step:08d}.pt")
        assert encoder.config == bench.config.model.encoder
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, saved[f"online.encoder.{name}"]), name


def test_milestones_outlive_a_change_of_the_setting(tmp_path):
    first = Bench(tmp_path / "run", "milestone_every=1")
    first.save(3)
    first.writer.wait()
    later = Bench(tmp_path / "run")
    for step in (4, 8, 12):
        later.save(step)
    later.writer.wait()
    assert [name for name in names(later.out) if name.startswith("checkpoint")] == [
        f"checkpoint-{step:08d}.pt" for step in (3, 8, 12)
    ]


def test_other_ranks_save_nothing_and_agree_on_when(tmp_path):
    other = Bench(tmp_path / "run", is_main=False)
    with other.writer:
        assert other.writer.due(4)
        other.save(4)
        other.writer.check()
    assert not other.out.exists()


@pytest.mark.parametrize("steps", [(), (4, 8)])
def test_a_save_that_was_cut_off_is_told_with_its_path(tmp_path, steps):
    out = tmp_path / "run"
    first = Bench(out)
    for step in steps:
        first.save(step)
        first.writer.wait()
    out.mkdir(exist_ok=True)
    (out / ".unfinished.pt").write_bytes(b"half")
    assert Bench(out, is_main=False).said == []
    (line,) = Bench(out).said
    # Where the run goes on, the writer does not know: the newest checkpoint may be damaged.
    assert line == f"a save was cut off: {out / '.unfinished.pt'} was half a file, and is removed"
    assert Bench(out).said == []
