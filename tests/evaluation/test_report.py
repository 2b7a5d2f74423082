import io
import json
from base64 import b64decode
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.report import (
    Tile,
    curves_section,
    evaluation_section,
    masks_section,
    read_metrics,
    run_sections,
    summary_section,
    throughput_section,
    views_section,
    write_report,
)
from evaluation.results import (
    DataSummary,
    EvaluationResult,
    against_untrained,
    read_results,
    result_from_dict,
    write_result,
)
from pipeline.batch import MASK_GRID, MultiCropBatch


class Page(HTMLParser):
    """Text and pictures of a section, with a check that its tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[Image.Image] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            source = dict(attrs)["src"] or ""
            data = b64decode(source.removeprefix("data:image/png;base64,"))
            self.images.append(Image.open(io.BytesIO(data)).convert("RGB"))
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "polyline", "polygon", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def result(
    protocol: str = "knn", *, untrained: bool = False, top1: float = 62.5
) -> EvaluationResult:
    return EvaluationResult(
        protocol=protocol,
        checkpoint="runs/x/checkpoint.pt",
        step=1200,
        untrained=untrained,
        view_size=48,
        train=DataSummary(shards="train", samples=9469, classes=10),
        test=DataSummary(shards="val", samples=3925, classes=10),
        chance=10.5,
        top1=top1,
        top1_standard_error=0.8,
        top5=90.0,
        top5_standard_error=0.5,
        settings={"k": 20},
        chosen={"k": 20},
        table=[{"k": 10, "top1": 61.0, "top5": 89.0}, {"k": 20, "top1": top1, "top5": 90.0}],
        notes=["a <note>"],
        seconds=12.0,
        device="cpu",
    )


def line(step: int, **values: float) -> dict[str, float]:
    return {"step": step, "loss": 3.0 - step / 10} | values


def uniform(height: int, width: int, colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3).clone()


def test_curves_draw_what_was_recorded_and_skip_what_is_no_number() -> None:
    metrics = [
        line(1, knn_top1=20.0),
        line(2),
        {"step": 3, "loss": float("nan"), "note": "text", "gradient_norm": 2.0},
        line(4, knn_top1=35.0, gradient_norm=1.0),
    ]
    page = Page(curves_section(metrics).body)
    assert page.text.count("step") == 3  # one axis each: loss, kNN, and the number without a place
    assert "Loss" in page.words
    assert "kNN accuracy on training images" in page.words
    assert "% right, each by its neighbours among the others" in page.words
    assert "Gradient norm" in page.words
    assert "Target decay" not in page.words
    assert "35" in page.words  # the last kNN accuracy


def test_curves_show_how_far_apart_embeddings_are() -> None:
    metrics = [line(1, embedding_std=0.9, rank_me=120.0), line(2, embedding_std=0.03, rank_me=1.5)]
    section = curves_section(metrics)
    page = Page(section.body)
    for shown in ("Spread of embeddings", "std; 1: even, 0: collapsed", "0.0300", "RankMe", "1.5"):
        assert shown in page.words
    assert "embedding std" not in page.words  # it has a place of its own
    assert 'aria-label="RankMe over step: dimensions from 120.0 to 1.5' in section.body


def test_throughput_tells_median_and_waiting_time() -> None:
    metrics = [line(i, images_per_second=100.0 + i, wait_share=0.02 * i) for i in (1, 2, 3)]
    section = throughput_section(metrics)
    assert section.lead == "Speed: 102 images/s, median; Waiting for data: 4.0 % of the time."
    page = Page(section.body)
    assert "% of the time" in page.words
    assert "Undecodable samples" not in page.words
    told = Page(throughput_section([*metrics, line(4, bad_samples=2)]).body)
    assert "Undecodable samples" in told.words


def test_nothing_recorded_is_said() -> None:
    assert "Nothing was recorded" in throughput_section([{"step": 1}]).body


def test_summary_shows_tiles_and_facts_escaped() -> None:
    section = summary_section(
        facts={"Data": {"source": "a<b", "images": 20}},
        tiles=[Tile(name="kNN", value="62.5 %", aside="untrained 30 %")],
    )
    page = Page(section.body)
    assert page.words == [
        "kNN",
        "62.5 %",
        "untrained 30 %",
        "Data",
        "source",
        "a<b",
        "images",
        "20",
    ]


def test_evaluation_puts_trained_beside_untrained() -> None:
    section = evaluation_section([result(), result(untrained=True, top1=31.0)])
    page = Page(section.body)
    bars = page.text.split("what each class")[0].split("kNN  encoder")[0]
    assert bars.index("chance") < bars.index("untrained") < bars.index(" trained")
    for word in ("10.5 %", "31.0 % ± 0.8", "62.5 % ± 0.8", "61.0 %", "a <note>"):
        assert word in page.words
    assert section.body.count("class=chosen") == 1
    assert "9,469 training images, 3,925 test images, 10 classes, views of 48 pixels" in page.text


def test_views_are_shown_as_they_were_before_normalisation() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    shift = torch.tensor([1.0, -1.0, 2.0])[:, None, None]  # 0.7, 0.2, 0.5
    batch = MultiCropBatch(
        large=shift.expand(2, 3, 3, 16, 16),
        small=shift.expand(1, 3, 3, 8, 8),
        labels=torch.zeros(3),
        sample_ids=np.arange(3),
        epoch=0,
    )
    originals = [uniform(20, 10, (255, 0, 0)), uniform(10, 20, (0, 0, 255))]
    section = views_section(batch, originals=originals, mean=mean, std=std, names=["a&b", "c"])
    page = Page(section.body)
    assert [image.size for image in page.images] == [
        *[(10, 20), (16, 16), (16, 16), (8, 8)],
        *[(20, 10), (16, 16), (16, 16), (8, 8)],
    ]
    assert page.images[0].getpixel((0, 0)) == (255, 0, 0)
    assert page.images[1].getpixel((5, 5)) == (178, 51, 128)
    assert page.images[3].getpixel((5, 5)) == (178, 51, 128)
    assert page.words == ["original", "large 1", "large 2", "small 1", "a&b", "c"]
    assert section.body.count("--columns: 4") == 1


def test_masks_cut_out_the_salient_half() -> None:
    grid = torch.zeros(MASK_GRID, MASK_GRID, dtype=torch.uint8)
    grid[:, : MASK_GRID // 2] = 255
    section = masks_section(
        [uniform(40, 60, (200, 100, 50))], [grid], names=["a.jpg"], fill=(0.0, 1.0, 0.0)
    )
    page = Page(section.body)
    image, overlay, masked = page.images
    assert image.size == overlay.size == masked.size == (60, 40)
    assert overlay.getpixel((10, 20)) == (200, 100, 50)
    assert overlay.getpixel((29, 20)) == (255, 196, 0)  # the outline
    assert overlay.getpixel((50, 20)) == (56, 28, 14)  # dimmed
    assert masked.getpixel((10, 20)) == (200, 100, 50)
    assert masked.getpixel((50, 20)) == (0, 255, 0)
    assert "50 % salient" in page.text


def test_large_pictures_become_small_ones() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    full = torch.full((MASK_GRID, MASK_GRID), 255, dtype=torch.uint8)
    section = masks_section([torch.from_numpy(noise)], [full])
    assert [image.size for image in Page(section.body).images] == [(144, 112)] * 3
    assert len(section.body) < 80_000


def test_results_come_back_from_their_files_in_order(tmp_path: Path) -> None:
    written = [result("linear-quick"), result(), result(untrained=True, top1=31.0)]
    names = [write_result(one, tmp_path).name for one in written]
    assert names == [
        "evaluation-linear-quick.json",
        "evaluation-knn.json",
        "evaluation-knn-untrained.json",
    ]
    found = read_results(tmp_path)
    assert [(one.protocol, one.untrained) for one in found] == [
        ("knn", True),
        ("knn", False),
        ("linear-quick", False),
    ]
    assert json.loads(json.dumps(asdict(found[1]))) == json.loads(json.dumps(asdict(written[1])))
    assert found[1].test == written[1].test


def altered(**changes: object) -> str:
    return json.dumps({**asdict(result()), **changes})


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"protocol": "knn"}',
        altered(top1="much"),
        altered(chosen={"k": None}),
        altered(table=[{"k": 10}, {"l2": 1.0}]),
        altered(table=[3]),
        altered(notes=3),
        altered(train=None),
        altered(test={"shards": "val", "samples": "many", "classes": 2}),
        altered(step="last"),
    ],
)
def test_a_foreign_result_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation-knn.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation-knn\.json: .*remove it, and evaluate"):
        read_results(tmp_path)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'guess'"):
        result_from_dict({**asdict(result()), "protocol": "guess"})


def test_metrics_of_a_killed_run_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [line(1), line(2), {"step": 2, "knn_top1": 30.0}, line(3), line(2, loss=9.0)]
    path.write_text("\n".join(json.dumps(one) for one in lines) + '\n{"step": 4, "lo')
    metrics = read_metrics(path)
    assert [one["step"] for one in metrics] == [1, 2, 3]
    assert metrics[1] == {"step": 2, "loss": 9.0, "knn_top1": 30.0}


@pytest.mark.parametrize(
    "blemish",
    [
        b"nonsense",
        b"5",
        b"[]",
        b"null",
        b'"step"',
        b'{"loss": 1.0}',
        b'{"step": "2", "loss": 1.0}',
        b'{"step": -1, "loss": 1.0}',
        b'{"step": 4, "lo{"step": 2, "loss": 1.0}',
        b'{"step": 4, "note": "\xff\xfe',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_line_that_is_no_metrics_is_left_out_and_told(
    tmp_path: Path, blemish: bytes, last: bool
) -> None:
    first, second = (json.dumps(line(step)).encode() for step in (1, 2))
    lines = [first, second, blemish] if last else [first, blemish, second]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert read_metrics(tmp_path / "metrics.jsonl") == [line(1), line(2)]
    curves, _ = run_sections(tmp_path)
    assert curves.lead.endswith("Lines that could not be read and are left out: 1.")
    assert "2.800" in Page(curves.body).words  # the last loss


def test_an_intact_log_tells_of_nothing_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(1)) + "\n" + json.dumps(line(2)) + "\n")
    assert "left out" not in run_sections(tmp_path)[0].lead


def test_values_that_are_no_numbers_leave_the_others_in_the_report() -> None:
    metrics = [line(1), {"step": 2, "loss": "much"}, {"step": 3, "loss": 10**400}]
    assert "2.900" in Page(curves_section(metrics).body).words


def test_queue_occupancy_is_drawn_as_the_mean_of_each_log_line() -> None:
    metrics = [line(i, queue_occupancy=filled) for i, filled in enumerate((1.0, 0.25, 0.5))]
    section = throughput_section(metrics)
    page = Page(section.body)
    assert "Views ready ahead" in page.words
    assert "% of the queue, mean" in page.words
    assert "&quot;y&quot;:[&quot;100&quot;,&quot;25&quot;,&quot;50&quot;]" in section.body


def test_a_folder_without_a_run_has_the_sections_of_its_results(tmp_path: Path) -> None:
    assert run_sections(tmp_path) == []
    write_result(result(), tmp_path)
    assert [section.key for section in run_sections(tmp_path)] == ["evaluation"]


def test_a_description_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(ValueError, match="does not describe a run"):
        run_sections(tmp_path)


def told(trained: float, untrained: float, samples: int, **changes: Any) -> str:
    both = [result(top1=trained), result(untrained=True, top1=untrained)]
    test = DataSummary(shards="val", samples=samples, classes=10)
    return against_untrained([replace(both[0], test=test), replace(both[1], **changes)], "knn")


def test_trained_is_better_only_beyond_two_standard_errors() -> None:
    test = DataSummary(shards="val", samples=736, classes=10)
    close = told(52.4, 51.2, 736, test=test)
    assert close.startswith("Trained is not better than untrained: the difference is +1.2 points")
    assert "a standard error of 2.6" in close
    assert told(60.0, 51.2, 736, test=test).startswith("Trained is better than untrained")
    assert "it is worse" in told(40.0, 51.2, 736, test=test)
    assert told(100.0, 0.0, 1, test=replace(test, samples=1)).startswith("Trained is not better")
    assert told(60.0, 51.2, 700, test=test).startswith("Untrained was measured on other images")
    assert against_untrained([result()], "knn") == ""


def test_a_result_of_an_older_version_is_read() -> None:
    new = {"top1_standard_error", "top5_standard_error", "classes", "confusions", "neighbours"}
    old = {name: value for name, value in asdict(result()).items() if name not in new}
    found = result_from_dict(json.loads(json.dumps(old)))
    assert found.top1_standard_error == pytest.approx((62.5 * 37.5 / 3925) ** 0.5)
    assert "what each class" not in evaluation_section([found]).body


def test_top_five_is_shown_from_eleven_classes_on() -> None:
    ten, eleven = result(), replace(result(), train=DataSummary(shards="t", samples=9, classes=11))
    assert "top-5" not in evaluation_section([ten]).body
    assert "90.0 % ± 0.5" in evaluation_section([eleven]).body


def classes(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"<{i}>", "samples": 4, "top1": 25.0, "top1_standard_error": 21.7}
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["<1>", "caf\udce9"])
def test_confusions_of_few_classes_are_a_matrix(name: str) -> None:
    confusions = [{"name": "<0>", "taken_for": name, "samples": 3}]
    page = Page(
        evaluation_section([replace(result(), classes=classes(2), confusions=confusions)]).body
    )
    row = page.words[page.words.index("1 <0>") :]
    assert [word for word in row if word in ("25", "75")][:2] == ["25", "75"]
    assert "± 22" in row


def test_of_many_classes_the_extremes_are_shown() -> None:
    many = replace(result(), classes=classes(30))
    assert "the 8 worst and the 8 best of 30 classes" in Page(evaluation_section([many]).body).text


def test_charts_have_chance_and_the_error_of_each_accuracy() -> None:
    lines = [line(i, accuracy=0.1, knn_top1=40.0) for i in (1, 2)]
    lines[1] |= {"knn_standard_error": 1.84, "knn_chance": 10.1}
    section = curves_section(lines, negatives=50)
    assert section.body.count('class="level" x1') == 3  # loss, kNN, contrastive accuracy
    text = Page(section.body).text
    assert "chance, ln(51) 3.932" in text
    assert "40.00 ± 1.84" in text
    assert "chance 10.10" in text
    assert "leave-one-out" in section.lead


def test_legends_have_even_digits_and_memory_is_in_gigabytes() -> None:
    first = {"step": 1, "loss": 3.9405, "contrastive": 3.9, "skipped_steps": 0}
    section = curves_section([first])
    assert {"3.941", "3.900"} <= set(Page(section.body).words)
    assert "kipped" not in section.body
    memory = throughput_section([{"step": 1, "peak_host_bytes": 8.85e8, "skipped_steps": 0}])
    assert "0.8850" in Page(memory.body).words
    assert "Skipped" not in memory.body
    skipped = throughput_section([{"step": 1, "skipped_steps": 2}])
    assert "Skipped steps" in Page(skipped.body).words


def test_a_report_that_cannot_be_written_leaves_the_old_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    section = evaluation_section([replace(result(), notes=["caf\udce9"])])
    write_report(path, [section])
    before = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(path, [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
