"""The whole way: hand-crafted maps, a start, phase I of each method, phase II, the student.

Each stage skips what it finds done, so that the same call goes on where it was interrupted, with
the result that it would have had (on one machine, with as many threads).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from files import write_text_whole
from pipeline.folder_lock import locked
from pipeline.saliency.finish import Finish
from pipeline.saliency.refine.config import RefineConfig
from pipeline.saliency.refine.crf_pool import crf_pool
from pipeline.saliency.refine.distil import STAGE as STUDENT
from pipeline.saliency.refine.distil import distil
from pipeline.saliency.refine.fuse import STAGE as FUSED
from pipeline.saliency.refine.fuse import fuse, write_fused_maps
from pipeline.saliency.refine.handcrafted import HandCrafted, write_handcrafted_maps
from pipeline.saliency.refine.initial import Encoder, fitted
from pipeline.saliency.refine.photos import Photos, read_photos
from pipeline.saliency.refine.predictor import MaskSettings, save_student
from pipeline.saliency.refine.refine_method import refine_method
from pipeline.saliency.refine.start import starting_weights
from pipeline.saliency.refine.u2net import Student
from pipeline.saliency.refine.workshop import Report, Workshop
from pipeline.sources.record import Record

METHOD = "deepusps-student"
VERSION = 4  # goes up when the same settings give other masks


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a training has left."""

    student: Path
    description: Path  # saliency.json
    num_photos: int
    bad: Sequence[tuple[str, str]]  # (key, reason) of photos that were left out


def train_masks(
    records: Sequence[Record],
    methods: HandCrafted,
    config: RefineConfig,
    *,
    encoder: Encoder | None,
    out: Path,
    device: torch.device,
    threads: int,
    report: Report,
) -> Trained:
    """Train a student from photos alone, or go on with it. OUT is laid out as in workshop.py.

    Args:
        methods: the hand-crafted ones, the only teachers.
        encoder: what the networks start from; None: random weights.
        threads: of reading, of hand-crafted methods and of the CRF; not of torch.

    Raises:
        ValueError: OUT was started with something else, another process is at work in it, fewer
            than two photos can be read, or a stage failed.
        OSError: something cannot be written.
    """
    if not methods.names:
        raise ValueError("no hand-crafted method is given; at least one must teach")
    if methods.fusion is None and config.student.teacher_fusion > 0:
        raise ValueError("student.teacher_fusion needs a hand-crafted fusion")
    config = dataclasses.replace(config, network=fitted(config.network, encoder))
    with locked(out), crf_pool(threads) as pool:
        with report("photos", len(records)) as tick:
            photos = read_photos(records, config.network.size, pool, tick)
        if len(photos) < 2:
            raise ValueError("one photo alone cannot teach a network; give some hundred")
        plan = _plan(photos, methods, config, encoder)
        _start(out, plan)
        workshop = Workshop(
            photos=photos,
            config=config,
            encoder=encoder,
            device=device,
            pool=pool,
            out=out,
            report=report,
        )
        student, description = out / "student.pt", out / "saliency.json"
        facts = {"method": METHOD, "labels_involved": False, **plan}
        if not student.is_file():
            settings = config.student
            mask_settings = MaskSettings(
                mirrored=settings.mirrored_test,
                finish=Finish(
                    lean=settings.lean_test,
                    crf=config.crf if settings.crf_test else None,
                    cut=settings.cut_test,
                ),
            )
            save_student(student, _run(methods, workshop), mask_settings, facts)
        workshop.state(STUDENT).unlink(missing_ok=True)
        _write_json(description, facts)
    return Trained(
        student=student,
        description=description,
        num_photos=len(photos),
        bad=photos.bad,
    )


def _run(methods: HandCrafted, workshop: Workshop) -> Student:
    write_handcrafted_maps(methods, workshop)
    workshop = dataclasses.replace(workshop, start=starting_weights(methods.names, workshop))
    refined = [refine_method(method, workshop) for method in methods.names]
    network = fuse(refined, workshop)
    write_fused_maps(network, methods.fusion, workshop)
    return distil(workshop, FUSED, methods.names)


def _plan(
    photos: Photos,
    methods: HandCrafted,
    config: RefineConfig,
    encoder: Encoder | None,
) -> dict[str, Any]:
    """What a training is determined by, as plain values."""
    keys = "\n".join(record.key for record in photos.records)
    start = "random" if encoder is None else _digest(encoder)
    return {
        "version": VERSION,
        "methods": list(methods.names),
        "fusion": methods.fusion,
        "num_photos": len(photos),
        "photos_sha256": hashlib.sha256(keys.encode()).hexdigest(),
        "initial_weights": start,
        "encoder": None if encoder is None else encoder.path,
        "settings": json.loads(json.dumps(dataclasses.asdict(config))),
    }


def _digest(encoder: Encoder) -> str:
    digest = hashlib.sha256()
    for name, tensor in encoder.weights.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"encoder sha256:{digest.hexdigest()}"


def _start(out: Path, plan: Mapping[str, Any]) -> None:
    """Note the plan in an empty folder; in another, see that it is the same."""
    path = out / "config.json"
    if not path.is_file():
        partial = path.with_name(path.name + ".partial")  # of a start that was killed
        if any(found != partial for found in out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no training of masks; choose another")
        _write_json(path, plan)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged; choose another folder") from error
    old, new = _flat(before), _flat(plan)
    changed = [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in {**old, **new}
        if name != "encoder" and old.get(name) != new.get(name)
    ]
    if changed:
        raise ValueError(
            f"{out} was started otherwise: {'; '.join(changed)}; choose another folder"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text_whole(path, json.dumps(values, indent=2) + "\n")
