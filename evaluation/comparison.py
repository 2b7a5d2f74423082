"""The section of evaluation results: bars that compare, tables that tell everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation.charts import format_value
from evaluation.page import Section
from evaluation.results import (
    PROTOCOLS,
    EvaluationResult,
    against_untrained,
    in_order,
    percent,
    shown_cells,
    with_error,
)

MOST_IN_A_MATRIX = 20  # classes
_EXTREMES = 8  # classes at each end of a long list

HEADS = {
    "k": "k",
    "top1": "top-1",
    "top5": "top-5",
    "unweighted_top1": "top-1, equal votes",
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
    classes = "".join(_classes_cards(group[-1]) for group in present)
    return Section(
        key="evaluation",
        title="Evaluation",
        lead="Share of images classified right, by classifiers on features of the frozen encoder, "
        "± its standard error, which comes from the number of test images alone. Chance is the "
        "share of the most frequent class.",
        body=f'<div class="card bars">{bars}</div><div class="grid">{cards}{classes}</div>',
    )


def is_chosen(result: EvaluationResult, row: Mapping[str, Any]) -> bool:
    """Whether the headline accuracy belongs to a row: its k, or the swept value that was chosen."""
    return any(row[key] == result.chosen.get(key) for key in row)


def _bars(group: Sequence[EvaluationResult]) -> str:
    """Draw the results of one protocol, untrained before trained."""
    name, chance = PROTOCOLS[group[0].protocol], group[0].chance
    heading = f'<div class="group">{escape(name)}, top-1, {_tested_on(group[-1])}</div>'
    bars = [
        _bar(
            _who(result),
            result.top1,
            with_error(result.top1, result.top1_standard_error),
            chance=chance,
            plain=result.untrained,
        )
        for result in group
    ]
    told = against_untrained(group, group[0].protocol)
    verdict = f'<p class="note group">{escape(told)}</p>' if told else ""
    chance_bar = _bar("chance", chance, percent(chance), chance=chance, plain=True)
    return "".join([heading, chance_bar, *bars, verdict])


def _bar(who: str, share: float, text: str, *, chance: float, plain: bool) -> str:
    colour = "plain" if plain else "f0"
    return (
        f'<span class="who">{who}</span><div class="track">'
        f'<div class="fill {colour}" style="width: {share:.1f}%"></div>'
        f'<div class="level" style="left: {chance:.1f}%"></div></div>'
        f"<b>{text}</b>"
    )


def _who(result: EvaluationResult) -> str:
    return "untrained" if result.untrained else "trained"


def _card(group: Sequence[EvaluationResult]) -> str:
    """Show the accuracies of one protocol, then what they were chosen from."""
    shown = group[-1]  # the trained encoder, where it was evaluated
    names = [HEADS.get(key, key) for key in shown.chosen]
    tops = ["top-1", "top-5"] if shown.shows_top5 else ["top-1"]
    parts = [
        f"<h3>{escape(PROTOCOLS[shown.protocol])}</h3>",
        _table(["encoder", *tops, *names], [_headline(one, len(tops)) for one in group]),
    ]
    if shown.table:
        rows = [shown_cells(shown, row) for row in shown.table]
        chosen = [is_chosen(shown, row) for row in shown.table]
        heads = [HEADS.get(column, column) for column in rows[0]]
        parts.append(_table(heads, [list(row.values()) for row in rows], chosen))
    notes = [_data(shown), *dict.fromkeys(note for one in group for note in one.notes)]
    return "".join([*parts, *(f'<p class="note">{escape(note)}</p>' for note in notes)])


def _headline(result: EvaluationResult, tops: int) -> list[str]:
    accuracies = [
        with_error(result.top1, result.top1_standard_error),
        with_error(result.top5, result.top5_standard_error),
    ]
    return [_who(result), *accuracies[:tops], *map(format_value, result.chosen.values())]


def _classes_cards(result: EvaluationResult) -> str:
    """Show how each class fares: the whole confusion matrix of few classes, extremes of many."""
    if not result.classes:
        return ""
    heading = f"{PROTOCOLS[result.protocol]}, {_who(result)}"
    if len(_class_names(result)) <= MOST_IN_A_MATRIX:
        return _card_of(f"{heading}: what each class is taken for", _matrix(result), wide=True)
    ranked = sorted(result.classes, key=lambda row: row["top1"])
    rows = [
        [row["name"], with_error(row["top1"], row["top1_standard_error"]), f"{row['samples']:,}"]
        for row in (*ranked[:_EXTREMES], *ranked[-_EXTREMES:])
    ]
    confusions = [
        [row["name"], row["taken_for"], f"{row['samples']:,}"]
        for row in result.confusions[: 2 * _EXTREMES]
    ]
    return _card_of(
        f"{heading}: the {_EXTREMES} worst and the {_EXTREMES} best of {len(ranked):,} classes",
        _table(["class", "top-1", "images"], rows),
    ) + _card_of(
        f"{heading}: the most frequent confusions",
        _table(["class", "taken for", "images"], confusions),
    )


def _class_names(result: EvaluationResult) -> list[str]:
    """Return the classes that were tested, and behind them those that others were taken for."""
    tested = [row["name"] for row in result.classes]
    return list(dict.fromkeys([*tested, *(row["taken_for"] for row in result.confusions)]))


def _matrix(result: EvaluationResult) -> str:
    """Draw the confusion matrix: a row for each class, in percent of its test images."""
    names = _class_names(result)
    taken = {(row["name"], row["taken_for"]): row["samples"] for row in result.confusions}
    rows = []
    for number, row in enumerate(result.classes, 1):
        own, samples = row["name"], row["samples"]
        hits = samples - sum(count for (name, _), count in taken.items() if name == own)
        shares = [100 * (hits if n == own else taken.get((own, n), 0)) / samples for n in names]
        cells = "".join(
            f'<td class="{"hit" if name == own else "miss"}" style="--share: {share:.0f}%">'
            f"{f'{share:.0f}' if share else ''}</td>"
            for name, share in zip(names, shares, strict=True)
        )
        error = f"{row['top1_standard_error']:.0f}"
        rows.append(f"<tr><td>{number} {escape(own)}</td>{cells}<td>± {error}</td></tr>")
    unseen = names[len(result.classes) :]
    heads = "".join(f"<th>{number}</th>" for number in range(1, len(names) + 1))
    more = ", ".join(f"{number} {name}" for number, name in enumerate(unseen, len(rows) + 1))
    note = f"Without test images: {more}. " if unseen else ""
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><th>class</th>{heads}<th></th></tr>'
        f'</thead><tbody>{"".join(rows)}</tbody></table></div><p class="note">{escape(note)}'
        "Percent of the test images of the row&#x27;s class; on the diagonal they are right, with "
        "the standard error at the end of the row.</p>"
    )


def _card_of(heading: str, body: str, *, wide: bool = False) -> str:
    kind = "card wide" if wide else "card"
    return f'<div class="{kind}"><h3>{escape(heading)}</h3>{body}</div>'


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


def _tested_on(result: EvaluationResult) -> str:
    """Return which images were classified, in words that tell it from the monitor's curve."""
    if result.test is None:
        return f"{result.train.samples:,} training images, each by all others (leave-one-out)"
    return f"{result.test.samples:,} test images"


def _data(result: EvaluationResult) -> str:
    test = f"{result.test.samples:,} test images" if result.test else "each tested on the others"
    step = "" if result.step is None else f"step {result.step:,}, "
    return (
        f"{result.train.samples:,} training images, {test}, {result.train.classes} classes, "
        f"views of {result.view_size} pixels, {step}{result.seconds:,.1f} s on {result.device}."
    )
