import copy

import pytest
import torch
from torch import nn

from model import distributed
from model.step import backward
from tests.model import two_ranks
from tests.model.processes import run_in_processes

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SIZE = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo processes returned."""
    folder = tmp_path_factory.mktemp("ranks")
    return run_in_processes(two_ranks.everything, folder=folder, size=SIZE)


def interleaved(parts):
    """Rows of the global batch from the rows of all ranks: row p is on rank p % W."""
    return torch.stack(list(parts), dim=1).flatten(0, 1)


@pytest.mark.parametrize("dims", [2, 4])
def test_synchronised_batchnorm_is_batchnorm_of_the_whole_batch(ranks, dims):
    assert_whole_batch(dims, [rank["synchronised_batchnorm"][dims] for rank in ranks])


@pytest.mark.gpu
def test_synchronised_batchnorm_on_cuda_is_batchnorm_of_the_whole_batch(tmp_path):
    ranks = run_in_processes(two_ranks.synchronised_batchnorm_on_cuda, folder=tmp_path, size=SIZE)
    for dims in (2, 4):
        assert_whole_batch(dims, [rank[dims] for rank in ranks])


def assert_whole_batch(dims, results):
    module = two_ranks.batchnorm_module(dims, 3)
    expected = two_ranks.batchnorm_case(*two_ranks.batchnorm_input(dims), module)
    assert results[0].keys() == expected.keys()
    for name, value in expected.items():
        parts = [result[name] for result in results]
        if name in ("output", "to_input"):
            torch.testing.assert_close(interleaved(parts), value, **EXACT)
        elif name.startswith("to_"):  # of weight and bias: each rank has its own share
            torch.testing.assert_close(sum(parts), value, **EXACT)
        else:
            for part in parts:
                torch.testing.assert_close(part, value, **EXACT)


def test_synchronised_batchnorm_weighs_ranks_by_their_rows(ranks):
    module = two_ranks.batchnorm_module(4, 3)
    expected = two_ranks.batchnorm_case(*two_ranks.batchnorm_input(4), module)
    results = [rank["uneven_batchnorm"] for rank in ranks]
    for name in ("output", "to_input"):
        together = torch.cat([result[name] for result in results])
        torch.testing.assert_close(together, expected[name], **EXACT)


def test_synchronised_batchnorm_keeps_the_variance_far_from_zero(ranks):
    output = interleaved(rank["far_from_zero"] for rank in ranks)
    x = two_ranks.normal(6, 2, 16, 16, seed=7, dtype=torch.float32) + 10_000
    torch.testing.assert_close(output, nn.BatchNorm2d(2)(x), rtol=1e-3, atol=2e-3)


def test_synchronised_batchnorm_keeps_the_type(ranks):
    output = interleaved(rank["half_precision"] for rank in ranks)
    x = two_ranks.normal(6, 2, 4, 4, seed=8)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), nn.BatchNorm2d(2)(x.float()), rtol=0.02, atol=0.02)


def test_gathered_rows_stand_in_the_order_of_samples(ranks):
    rows = two_ranks.normal(2, 6, 4, seed=9)
    for rank in ranks:
        assert torch.equal(rank["gathered"]["together"], rows)


def test_gradient_of_a_gathered_row_is_the_sum_over_all_losses(ranks):
    rows = two_ranks.normal(2, 6, 4, seed=9)
    expected = (1 + 2) * two_ranks.normal(2, 6, 4, seed=10) * 2 * rows
    for number, rank in enumerate(ranks):
        torch.testing.assert_close(rank["gathered"]["gradient"], expected[:, number::SIZE])


def test_broadcast_gives_everyone_the_tensors_of_rank_0(ranks):
    first, second = (rank["broadcast"] for rank in ranks)
    for number, (name, value) in enumerate(first.items()):
        assert torch.equal(value, second[name])
        steps = torch.arange(value.numel()).view(value.shape) + 100 * number
        assert torch.equal(value, steps.to(value.dtype))


@pytest.mark.parametrize("case", range(len(two_ranks.STEPS)), ids=lambda i: str(two_ranks.STEPS[i]))
def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(ranks, case):
    form, kind, subsampled, stop, _ = two_ranks.STEPS[case]
    model = two_ranks.make_model()
    negatives = two_ranks.draw_negatives(SIZE, kind) if subsampled else None
    config = two_ranks.loss_config(form, kind, stop)
    total = backward(model, *two_ranks.make_views(), negatives, config).total
    results = [rank["step_gradients"][case] for rank in ranks]
    torch.testing.assert_close(sum(result["total"] for result in results) / SIZE, total, **EXACT)
    for result in results:
        torch.testing.assert_close(result["averaged_total"], total, **EXACT)
        for name, parameter in model.online.named_parameters():
            torch.testing.assert_close(result["gradients"][name], parameter.grad, **EXACT)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(result["buffers"][name], buffer, **EXACT)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(result["buffers"][name], buffer, **EXACT)


def test_ranks_stay_bit_identical_while_they_train(ranks):
    first, second = (rank["trained"] for rank in ranks)
    fresh = two_ranks.make_model().float().state_dict()
    assert first.keys() == second.keys() == fresh.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(
        first["online.encoder.conv1.weight"], fresh["online.encoder.conv1.weight"]
    )


def test_what_rank_0_makes_or_cannot_make_reaches_all(ranks):
    for rank in ranks:
        made, refusal = rank["value_of_rank_0"]
        assert made["rank"] == 0
        assert made["tensor"].tolist() == [5, 5]
        assert refusal.endswith("No such file or directory: '/nowhere/0'")


def test_alone_nothing_is_sent_and_nothing_changes():
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    module = nn.Linear(2, 3)
    module.weight.grad = torch.ones(3, 2)
    before = copy.deepcopy(module)
    distributed.barrier()
    distributed.broadcast_parameters(module)
    assert torch.equal(module.weight, before.weight)
    assert torch.equal(module.weight.grad, torch.ones(3, 2))
    rows = torch.randn(2, 3)
    assert distributed.all_gather_with_gradient(rows) is rows
    assert distributed.from_main(lambda: rows) is rows


def test_synchronised_modules_keep_names_weights_and_mode():
    model = two_ranks.make_model()
    expected = copy.deepcopy(model)
    weights = list(model.parameters())
    model.online.eval()
    converted = distributed.synchronise_batchnorm(model)
    assert list(converted.state_dict()) == list(expected.state_dict())
    assert all(a is b for a, b in zip(converted.parameters(), weights, strict=True))
    norms = [m for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, distributed.SynchronisedBatchNorm) for norm in norms)
    assert not converted.online.encoder.bn1.training
    assert converted.target.encoder.bn1.training
    views = two_ranks.make_views()[0][0]
    torch.testing.assert_close(
        converted.embed_online(views), expected.eval().embed_online(views), **EXACT
    )
    torch.testing.assert_close(
        converted.embed_target(views), expected.train().embed_target(views), **EXACT
    )
