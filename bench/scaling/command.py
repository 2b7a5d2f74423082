"""`python -m bench scaling`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.harness import Broken
from bench.planner.compute import demand_of
from bench.refused import conclude, refusing
from bench.scaling.efficiency import Cluster
from bench.scaling.rung import ScalingRequest, scaling
from bench.scaling.text import scaling_text
from training.config import apply_settings
from training.presets import load_preset

GPU = "H200"
_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)


@click.command("scaling")
@click.option("--preset", default="imagenet-rn50", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@click.option(
    "--rate",
    type=_ABOVE_ZERO,
    metavar="IMAGES/S",
    help=f"Of one GPU.  [the higher estimate of {GPU}]",
)
@click.option("--gpus-per-node", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--inside", type=_ABOVE_ZERO, default=300.0, show_default=True, metavar="GB/S")
@click.option("--between", type=_ABOVE_ZERO, default=100.0, show_default=True, metavar="GB/S")
@click.option("--data", type=Path, help="Shards for the loaders; generated pictures without it.")
@click.option(
    "--loaders",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="At most, at a time; 0: predict only.",
)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--seconds", type=_ABOVE_ZERO, default=4.0, show_default=True)
@click.option(
    "--views",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Who makes the views; gpu: the cores only read and decode.",
)
@click.option("--disk", type=_ABOVE_ZERO, metavar="MB/S", help="Storage gives the node no more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def scaling_command(
    preset: str,
    settings: tuple[str, ...],
    rate: float | None,
    gpus_per_node: int,
    inside: float,
    between: float,
    data: Path | None,
    loaders: int,
    batch: int,
    seconds: float,
    views: str,
    disk: float | None,
    as_json: bool,
) -> None:
    """What more GPUs bring, predicted from what a step sends; and N loaders on this machine.

    The links are assumptions: GB/s of a ring in one direction, inside a node and from node to node.
    The loaders are run.
    """
    with refusing():
        config = apply_settings(load_preset(preset), settings)
        known = demand_of(GPU, config)
        assert known is not None
        request = ScalingRequest(
            config=config,
            cluster=Cluster(
                gpus_per_node=gpus_per_node,
                inside=1e9 * inside,
                between=1e9 * between,
                rate=rate or known.high,
            ),
            rate_origin=f"{GPU}, {known.origin}" if rate is None else "as given",
            data=data,
            loaders=loaders,
            batch=batch,
            seconds=seconds,
            views_here=views == "cpu",
            disk_megabytes=disk,
        )
        try:
            result = scaling(request)
        except Broken as error:
            raise click.ClickException(str(error)) from error
    click.echo(scaling_text(result))
    conclude(result, as_json)
