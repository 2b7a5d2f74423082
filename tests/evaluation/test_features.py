import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluation.features import extract_features, frozen
from pipeline.batch import MultiCropBatch

CPU = torch.device("cpu")


class Encoder(nn.Sequential):
    """Conv, BatchNorm with running statistics of its own, mean pooling: [B, 4]."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self[1].running_mean.fill_(0.25)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean(dim=(2, 3))


def batches(*sizes: int) -> list[MultiCropBatch]:
    generator = torch.Generator().manual_seed(0)
    made, first = [], 0
    for size in sizes:
        made.append(
            MultiCropBatch(
                large=torch.randn(1, size, 3, 8, 8, generator=generator),
                small=torch.empty(0, size, 3, 4, 4),
                labels=torch.arange(first, first + size),
                sample_ids=np.arange(first, first + size),
                epoch=0,
            )
        )
        first += size
    return made


def test_features_do_not_depend_on_the_other_images_of_a_batch() -> None:
    encoder = Encoder().train()
    views = batches(4, 4, 3)
    features, labels = extract_features(encoder, views, CPU)
    assert features.shape == (11, 4)
    assert features.dtype == torch.float32
    assert labels.tolist() == list(range(11))
    with torch.no_grad():
        expected = torch.cat([Encoder.forward(encoder.eval(), batch.large[0]) for batch in views])
    torch.testing.assert_close(features, expected)


def test_running_statistics_and_modes_stay_as_they_were() -> None:
    encoder = Encoder().train()
    encoder[1].eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features, _ = extract_features(encoder, batches(4), CPU)
    assert encoder.training
    assert encoder[0].training
    assert not encoder[1].training
    assert not features.requires_grad
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modes_come_back_after_an_error() -> None:
    encoder = Encoder().train()
    with pytest.raises(RuntimeError), frozen(encoder):
        encoder(torch.zeros(1, 5, 8, 8))
    assert encoder[1].training


def test_progress_counts_images() -> None:
    counts: list[int] = []
    extract_features(Encoder(), batches(4, 4, 3), CPU, progress=counts.append)
    assert counts == [4, 4, 3]


def test_a_diverged_encoder_is_named() -> None:
    encoder = Encoder()
    nn.init.constant_(encoder[0].weight, torch.inf)
    with pytest.raises(ValueError, match="training has diverged"):
        extract_features(encoder, batches(2), CPU)


def test_no_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        extract_features(Encoder(), [], CPU)


@pytest.mark.gpu
def test_gpu_gives_the_cpus_features_within_bfloat16() -> None:
    encoder = Encoder()
    views = batches(16)
    expected, _ = extract_features(encoder, views, CPU)
    features, _ = extract_features(encoder, views, torch.device("cuda"))
    torch.testing.assert_close(features, expected, atol=0.02, rtol=0.02)
