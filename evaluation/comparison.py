"""The section of evaluation results: bars that compare, tables that tell everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation.charts import format_value
from evaluation.page import Section
from evaluation.results import PROTOCOLS, EvaluationResult, in_order, percent

HEADS = {
    "k": "k",
    "top1": "top-1",
    "top5": "top-5",
    "unweighted_top1": "top-1, equal votes",
    "unweighted_top5": "top-5, equal votes",
    "learning_rate": "learning rate",
    "l2": "l2",
    "held_out_top1": "held-out top-1",
    "held_out_top5": "held-out top-5",
}


def evaluation_section(results: Sequence[EvaluationResult]) -> Section:
    """Show each protocol's accuracy, trained beside untrained, and what it was chosen from."""
    assert results, "no results"
    groups = [
        [result for result in in_order(results) if result.protocol == protocol]
        for protocol in PROTOCOLS
    ]
    present = [group for group in groups if group]
    bars = "".join(_bars(group) for group in present)
    cards = "".join(f'<div class="card">{_card(group)}</div>' for group in present)
    return Section(
        key="evaluation",
        title="Evaluation",
        lead="Images classified right, by classifiers on frozen features. Chance is the share of "
        "the most frequent class.",
        body=f'<div class="card bars">{bars}</div><div class="grid">{cards}</div>',
    )


def cell_text(column: str, value: float) -> str:
    """Return a cell of a result's table as text."""
    return percent(value) if "top" in column else format_value(value)


def is_chosen(result: EvaluationResult, row: Mapping[str, Any]) -> bool:
    """Whether the headline accuracy belongs to a row: its k, or the swept value that was chosen."""
    return any(row[key] == result.chosen.get(key) for key in row)


def _bars(group: Sequence[EvaluationResult]) -> str:
    """Draw the results of one protocol, untrained before trained."""
    heading = f'<div class="group">{escape(PROTOCOLS[group[0].protocol])}, top-1</div>'
    bars = [_bar(_who(result), result.top1, plain=result.untrained) for result in group]
    return "".join([heading, _bar("chance", group[0].chance, plain=True), *bars])


def _bar(who: str, share: float, *, plain: bool) -> str:
    colour = "plain" if plain else "f0"
    return (
        f'<span class="who">{who}</span><div class="track">'
        f'<div class="fill {colour}" style="width: {share:.1f}%"></div></div>'
        f"<b>{percent(share)}</b>"
    )


def _who(result: EvaluationResult) -> str:
    return "untrained" if result.untrained else "trained"


def _card(group: Sequence[EvaluationResult]) -> str:
    """Show the accuracies of one protocol, then what they were chosen from."""
    shown = group[-1]  # the trained encoder, where it was evaluated
    names = [HEADS.get(key, key) for key in shown.chosen]
    rows = [
        [_who(one), percent(one.top1), percent(one.top5), *map(format_value, one.chosen.values())]
        for one in group
    ]
    parts = [
        f"<h3>{escape(PROTOCOLS[shown.protocol])}</h3>",
        _table(["encoder", "top-1", "top-5", *names], rows),
    ]
    if shown.table:
        columns = list(shown.table[0])
        cells = [[cell_text(column, row[column]) for column in columns] for row in shown.table]
        chosen = [is_chosen(shown, row) for row in shown.table]
        parts.append(_table([HEADS.get(c, c) for c in columns], cells, chosen))
    notes = [_data(shown), *dict.fromkeys(note for one in group for note in one.notes)]
    return "".join([*parts, *(f'<p class="note">{escape(note)}</p>' for note in notes)])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], chosen: Sequence[bool] = ()) -> str:
    """Draw a table; chosen rows stand out."""
    marks = chosen or [False] * len(rows)
    head = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        f"<tr{' class=chosen' if mark else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _data(result: EvaluationResult) -> str:
    test = f"{result.test.samples:,} test images" if result.test else "each tested on the others"
    step = "" if result.step is None else f"step {result.step:,}, "
    return (
        f"{result.train.samples:,} training images, {test}, {result.train.classes} classes, "
        f"views of {result.view_size} pixels, {step}{result.seconds:,.1f} s on {result.device}."
    )
