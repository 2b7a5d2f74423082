"""`python -m bench scaling`: volumes against what is sent, known answers, loaders that run."""

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import bench
from bench.generated import generated_shards
from bench.scaling import loaders, worker
from bench.scaling.efficiency import Cluster, last_backward_share, latency, predict_scaling
from bench.scaling.loaders import KEEPS_UP, LOADS, first_behind, plan_sweeps, summed
from bench.scaling.rung import predictions
from bench.scaling.volume import GATHER, SUM, Sent, sent_in_a_step
from bench.scaling.worker import Counted, Trial, consume
from model.relicv2 import ReLICv2
from tests.bench import scaling_ranks
from tests.bench.step_support import tiny
from tests.model.processes import run_in_processes
from training.config import apply_settings
from training.presets import imagenet_rn50

PAPER = imagenet_rn50()


def by_name(sent):
    return {each.name: each for each in sent}


def test_what_is_counted_is_what_two_processes_send(tmp_path):
    ranks = run_in_processes(scaling_ranks.sent, folder=tmp_path, size=2)
    assert ranks[0] == ranks[1]
    config = scaling_ranks.config()
    local = scaling_ranks.BATCH // 2
    expected = by_name(sent_in_a_step(config, local_batch=local, world_size=2))
    assert {f"{name} calls" for name in expected} == {n for n in ranks[0] if n.endswith("calls")}
    for name, each in expected.items():
        assert ranks[0][f"{name} calls"] == each.calls, name
        if name != "BatchNorm, forward":
            assert ranks[0][f"{name} bytes"] == each.num_bytes, name
    # On a CPU the count goes with each channel of a view: 3 C v numbers in place of 2 C v + 1.
    forward = expected["BatchNorm, forward"]
    channels = (forward.num_bytes // 4 - forward.calls) // 2
    assert ranks[0]["BatchNorm, forward bytes"] == 4 * 3 * channels


def test_the_paper_sends_its_parameters_once_and_statistics_of_every_layer_and_view():
    hidden, size = 4096, 256
    projector = 2048 * hidden + hidden + 2 * hidden + hidden * size
    predictor = size * hidden + hidden + 2 * hidden + hidden * size
    parameters = 23_508_032 + projector + predictor  # torchvision's ResNet-50 without its head
    sent = by_name(sent_in_a_step(PAPER, local_batch=256, world_size=8))
    assert list(sent) == ["gradients", "BatchNorm, forward", "BatchNorm, backward"]
    assert 4 * parameters <= sent["gradients"].num_bytes < 4.01 * parameters
    assert sent["gradients"].last_bytes < sent["gradients"].num_bytes / 2
    # 53 layers of the encoder, one of each head; 6 views online, 4 at once through the target
    assert sent["BatchNorm, forward"].calls == 6 * 55 + 54
    assert sent["BatchNorm, backward"].calls == 6 * 55
    channels = 26_560 + 2 * hidden
    assert sent["BatchNorm, backward"].num_bytes == 4 * 2 * 6 * channels
    few = by_name(sent_in_a_step(PAPER, local_batch=64, world_size=8))  # views of a size at once
    assert few["BatchNorm, forward"].calls == 2 * 55 + 54
    assert few["BatchNorm, backward"].calls == 2 * 55
    assert few["BatchNorm, backward"].num_bytes == sent["BatchNorm, backward"].num_bytes


def test_parts_send_statistics_anew_and_gradients_once():
    config = replace(PAPER, accumulate=2)
    one, two = (
        by_name(sent_in_a_step(each, local_batch=256, world_size=8)) for each in (PAPER, config)
    )
    assert two["gradients"] == one["gradients"]
    assert two["BatchNorm, forward"].calls == 2 * one["BatchNorm, forward"].calls


def test_one_process_sends_nothing():
    assert sent_in_a_step(PAPER, local_batch=256, world_size=1) == ()
    found = predict_scaling(PAPER, Cluster(rate=800.0), gpus=1, local_batch=256)
    assert found["efficiency"] == 1


def test_bytes_on_a_ring():
    given_bytes = {"calls": 1, "num_bytes": 1200, "name": ""}
    assert Sent(operation=SUM, **given_bytes).on_a_ring(4) == 1800  # 2 * 3 / 4
    assert Sent(operation=GATHER, **given_bytes).on_a_ring(4) == 3600


def test_latencies_are_nccls():
    cluster = Cluster(rate=800.0, gpus_per_node=8)
    assert latency(GATHER, 8, cluster) == pytest.approx(1e-6 * (3.6 + 7 * 0.47))
    assert latency(SUM, 8, cluster) == pytest.approx(1e-6 * (4.4 + 2 * 7 * 0.52))
    # 8 nodes: 63 hops, 7 of them over the network; a tree of depth 3
    assert latency(GATHER, 64, cluster) == pytest.approx(1e-6 * (3.6 + 56 * 0.846 + 7 * 2.7))
    assert latency(SUM, 64, cluster) == pytest.approx(1e-6 * (4.4 + 2 * (7 * 0.936 + 3 * 5)))


def test_the_last_backward_pass():
    f = (96 / 224) ** 2  # of a small view, where a large one costs 1
    assert last_backward_share(PAPER) == pytest.approx(2 * f / (4 * 4 + 2 * 3 * f), rel=0.03)
    assert last_backward_share(apply_settings(PAPER, ["num_small=0"])) == 2 / 16


def test_a_step_by_hand():
    """Slow links: the gradients do not fit beside the last view's backward pass."""
    cluster = Cluster(inside=1e9, between=1e9, rate=1000.0)
    found = predict_scaling(PAPER, cluster, gpus=8, local_batch=100)
    sent = by_name(sent_in_a_step(PAPER, local_batch=100, world_size=8))
    gradients = sent["gradients"]
    seconds = gradients.num_bytes * 14 / 8 / 1e9 + gradients.calls * latency(SUM, 8, cluster)
    exposed = seconds - last_backward_share(PAPER) * 0.1
    assert found["gradients_exposed_seconds"] == pytest.approx(exposed)
    assert found["compute_seconds"] == 0.1
    assert found["step_seconds"] == pytest.approx(0.1 + exposed + found["small_calls_seconds"])
    assert found["images_per_second"] == pytest.approx(800 / found["step_seconds"])
    small = [each for each in found["sent"] if each["name"] != "gradients"]
    assert found["small_calls_seconds"] == pytest.approx(sum(each["seconds"] for each in small))


def test_the_last_sum_has_nothing_to_hide_behind():
    cluster = Cluster(rate=1e-3)  # a step of days: all the others fit beside the last backward pass
    found = predict_scaling(PAPER, cluster, gpus=8, local_batch=100)
    last = by_name(sent_in_a_step(PAPER, local_batch=100, world_size=8))["gradients"].last_bytes
    expected = last * 14 / 8 / cluster.inside + latency(SUM, 8, cluster)
    assert found["gradients_exposed_seconds"] == pytest.approx(expected)


@given(
    nodes=st.integers(1, 64),
    local_batch=st.integers(1, 1024),
    rate=st.floats(10, 1e4),
    between=st.floats(1e9, 1e12),
)
def test_efficiency_falls_with_nodes_and_rises_with_the_batch(nodes, local_batch, rate, between):
    config = replace(tiny(), views_together="no")  # beyond 64 images "auto" sends more messages
    cluster = Cluster(rate=rate, between=between)

    def efficiency(nodes, local_batch):
        found = predict_scaling(config, cluster, gpus=8 * nodes, local_batch=local_batch)
        return found["efficiency"]

    own = efficiency(nodes, local_batch)
    assert 0 < own < 1
    assert efficiency(nodes + 1, local_batch) < own
    assert efficiency(nodes, local_batch + 1) > own


def test_predictions_are_for_the_presets_batch_and_for_a_fixed_one_on_each_gpu():
    made = predictions(PAPER, Cluster(rate=800.0))
    sizes = [(each["gpus"], each["local_batch"], each["global_batch"]) for each in made]
    divided = [(8, 512, 4096), (64, 64, 4096), (512, 8, 4096)]
    fixed = [(8, 256, 2048), (64, 256, 16384), (512, 256, 131072)]
    assert sizes == [each for pair in zip(divided, fixed, strict=True) for each in pair]
    odd = predictions(replace(PAPER, global_batch_size=24), Cluster(rate=800.0))
    assert [each["global_batch"] for each in odd] == [24, 2048, 16384, 131072]


class FakeTime:
    """Time goes by while a batch is taken and while somebody sleeps."""

    def __init__(self, making):
        self.now, self.making = 0.0, making

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.now / 4

    def sleep(self, seconds):
        self.now += seconds

    def take(self):
        self.now += self.making
        return 10


@pytest.mark.parametrize(
    ("making", "pace", "rate", "waited"),
    [
        (0.001, 0.5, 20.0, 0.001 / 0.5),  # ready in time
        (0.8, 0.5, 10 / 1.298, 0.8 / 1.298),  # late: what a sleep may overshoot is forgiven
        (0.25, 0.0, 10 / 0.25, 1.0),  # takes what comes
    ],
)
def test_a_loader_is_consumed_no_faster_than_the_pace(monkeypatch, making, pace, rate, waited):
    time = FakeTime(making)
    monkeypatch.setattr(worker, "time", time)
    counted = consume(time.take, Trial(loaders=1, pace=pace, warm_up=1.0, seconds=100.0))
    assert counted.images / counted.seconds == pytest.approx(rate, rel=0.005)
    assert counted.waited / counted.seconds == pytest.approx(waited, rel=0.005)
    assert counted.cpu_seconds == pytest.approx(counted.seconds / 4, rel=0.01)


def test_what_was_ready_before_does_not_count(monkeypatch):
    time, taken = FakeTime(0.0), []

    def take():
        taken.append(time.now)
        time.now += 0.01 if len(taken) <= 5 else 1.0  # five lay ready
        return 1

    monkeypatch.setattr(worker, "time", time)
    counted = consume(take, Trial(loaders=1, pace=0.0, warm_up=1.0, seconds=10.0))
    assert counted.images / counted.seconds == pytest.approx(1.0, rel=0.01)


def test_a_loader_that_keeps_up_has_filled_its_queues_when_counting_begins(monkeypatch):
    time, taken = FakeTime(0.0), []

    def take():
        taken.append(time.now)
        time.now += 0.4 if len(taken) <= 8 else 0.0  # late at first, then ready
        return 1

    monkeypatch.setattr(worker, "time", time)
    counted = consume(take, Trial(loaders=1, pace=0.1, warm_up=0.0, seconds=10.0))
    assert counted.waited == 0
    assert counted.images / counted.seconds == pytest.approx(10)


def test_sweeps_meet_where_the_cores_are_all_used():
    plan = plan_sweeps(4, 8)
    first = [(number, load) for sweep, number, load in plan if sweep == "loaders"]
    assert first == [(1, 0.25), (2, 0.5), (4, 1.0), (8, 2.0)]
    assert plan[4:] == [("demand", 4, load) for load in LOADS]
    for knee, most, numbers in ((3, 6, [1, 2, 3, 4, 6]), (1, 1, [1])):
        assert [n for sweep, n, _ in plan_sweeps(knee, most) if sweep == "loaders"] == numbers


def test_sums_over_loaders():
    counted = [
        Counted(images=100, seconds=2.0, waited=0.5, cpu_seconds=1.0),
        Counted(images=60, seconds=1.0, waited=0.1, cpu_seconds=0.6),
    ]
    found = summed(counted, 220.0, cores=2)
    assert found["delivered"] == 110
    assert found["ratio"] == 0.5
    assert found["waiting"] == 0.25
    assert found["cores_busy"] == pytest.approx(0.55)
    assert found["core_milliseconds_per_image"] == pytest.approx(10)
    assert math.isnan(summed(counted, 0.0, cores=2)["ratio"])


def test_where_loaders_fall_behind():
    points = [
        {"sweep": "demand", "load": load, "ratio": ratio}
        for load, ratio in ((1.5, 0.6), (0.5, 1.0), (0.9, KEEPS_UP), (1.0, 0.98))
    ]
    assert first_behind(points, "demand") == points[3]
    assert first_behind(points, "loaders") is None


@pytest.fixture(scope="module")
def data():
    with generated_shards(("dali",), count=24, height=48, width=64) as made:
        yield made["dali"]


def run(*words):
    return CliRunner().invoke(bench, ["scaling", *words])


@pytest.mark.slow
@pytest.mark.parametrize("views", ["gpu", "cpu"])
def test_loaders_are_run_and_deliver_no_more_than_is_demanded(data, views, monkeypatch):
    monkeypatch.setattr(loaders, "LOADS", (0.5, 1.5))
    monkeypatch.setattr(loaders, "_WARM_UP", 0.2)
    words = ["--data", str(data), "--loaders", "2", "--batch", "4", "--seconds", "0.3", "--json"]
    result = run(*words, "--views", views)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert made["rung"] == "scaling"
    assert "NOT measured" in made["cluster"]["rate_origin"]
    found = made["loaders"]
    assert (found["views"], found["samples"]) == (views, 24)
    assert found["capacity"] > 0
    assert found["core_milliseconds_per_image"] > 0
    points = [(p["sweep"], p["loaders"], p["load"]) for p in found["points"]]
    assert points == [
        *(("loaders", 1, 1.0), ("loaders", 2, 2.0)),
        *(("demand", 1, 0.5), ("demand", 1, 1.5)),
    ]
    for point in found["points"]:
        assert 0 < point["ratio"] <= 1 + 1e-9
        assert 0 <= point["waiting"] < 1
    assert found["node_demand"] == 8 * made["cluster"]["rate"]
    assert "one GPU: 800 images/s, H200, derived" in result.stdout


@pytest.mark.slow
def test_slow_storage_is_all_that_loaders_get(data, monkeypatch):
    monkeypatch.setattr(loaders, "LOADS", (1.0,))
    monkeypatch.setattr(loaders, "_WARM_UP", 0.5)
    words = ["--data", str(data), "--loaders", "1", "--batch", "2", "--seconds", "1", "--json"]
    result = run(*words, "--disk", "0.1")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])["loaders"]
    limit = found["storage_images_per_second"]
    assert limit == pytest.approx(0.1e6 / found["stored_bytes_per_image"])
    # two batches may be under way when counting begins
    assert found["capacity"] <= limit + 4


def test_prediction_alone_runs_nothing(monkeypatch):
    monkeypatch.setattr(loaders, "processes", None)
    result = run("--loaders", "0", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert made["loaders"] is None
    assert len(made["predictions"]) == 6
    given = run("--loaders", "0", "--rate", "123", "--json")
    assert json.loads(given.stdout.splitlines()[-1])["cluster"]["rate"] == 123
    assert "one GPU: 123 images/s, as given" in given.stdout


def test_too_few_samples_are_refused(data):
    result = run("--data", str(data), "--loaders", "8", "--batch", "4")
    assert result.exit_code == 2
    message = "holds 24 samples, fewer than 8 loaders take in a batch of 4 each; lower --loaders"
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_loader_that_dies_is_told(data, tmp_path):
    for file in data.iterdir():
        content = file.read_bytes()
        damaged = bytes(len(content)) if file.suffix == ".tar" else content
        (tmp_path / file.name).write_bytes(damaged)
    result = run("--data", str(tmp_path), "--loaders", "1", "--batch", "2", "--seconds", "0.1")
    assert result.exit_code == 1
    message = "Error: a loader's process ended with status 1; its error stands above"
    assert result.stderr.splitlines()[-1] == message


def test_gradients_are_counted_with_their_padding_and_the_loss():
    small = ReLICv2(tiny().model)
    sent = by_name(sent_in_a_step(tiny(), local_batch=4, world_size=2))
    elements = sum(-(-p.numel() // 64) * 64 for p in small.online.parameters())
    assert sent["gradients"].num_bytes == 4 * (elements + sent["gradients"].calls)
