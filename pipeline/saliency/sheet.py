"""A contact sheet of masks: a row for each picture, as one HTML file and as PNGs.

Shapes: h/w sides of a thumbnail.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.batch import Bytes
from pipeline.saliency.gate import Verdict

_LINES = 3  # of text beside a row in a PNG
_TILE = 120  # pixels, the longer side of a thumbnail
_ROWS_OF_PNG = 25
_INK, _PAPER, _WARNING = (40, 40, 40), (255, 255, 255), (190, 40, 30)

_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 13px sans-serif; margin: 16px; color: #282828 }}
table {{ border-collapse: collapse }}
th {{ position: sticky; top: 0; background: #fff; text-align: left; padding: 4px }}
td {{ padding: 3px 4px; vertical-align: top }} .fault {{ color: #be281e; font-weight: bold }}
</style><h1>{title}</h1><p>{note}</p>
<table><tr><th>{heads}</tr>
{rows}
</table>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One picture and what was made of it."""

    key: str
    tiles: Mapping[str, Bytes]  # column -> RGB [h, w, 3] or gray [h, w] thumbnail
    verdict: Verdict  # of the final mask
    confidence: float  # 0..1

    def lines(self) -> list[str]:
        return [
            self.key,
            f"confidence {self.confidence:.2f}, coverage {self.verdict.coverage:.0%}",
            f"refused: {self.verdict.fault}" if self.verdict.fault else "",
        ]


def confidence_of(final: Bytes, opinions: Sequence[Bytes]) -> float:
    """Return how well the final map agrees with each opinion, uint8 [h, w] of one size: 0..1.

    The mean over the opinions of the sum of minima over the sum of maxima, which is the
    intersection over union where maps are black and white. It does not depend on how large an
    object is, and is 0 where nothing was found.
    """
    shares = []
    for opinion in opinions:
        union = np.maximum(final, opinion).sum(dtype=np.int64)
        common = np.minimum(final, opinion).sum(dtype=np.int64)
        shares.append(common / union if union else 0.0)
    return float(np.mean(shares))


def thumbnail(pixels: Bytes) -> Bytes:
    """Reduce uint8 [H, W] or [H, W, 3] to the size of a tile."""
    scale = _TILE / max(pixels.shape[:2])
    size = [max(round(side * scale), 1) for side in pixels.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small: Bytes = cv2.resize(pixels, size, interpolation=how)
    return small


def write_sheet(folder: Path, rows: Sequence[SheetRow], *, title: str, note: str) -> list[Path]:
    """Write sheet.html and sheet-NN.png into a folder, the least confident picture first.

    Raises:
        OSError: they cannot be written.
    """
    rows = sorted(rows, key=lambda row: (row.confidence, row.key))
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "sheet.html"
    page.write_text(_page(rows, title, note), encoding="utf-8")
    paths = [page]
    for number, start in enumerate(range(0, len(rows), _ROWS_OF_PNG), start=1):
        path = folder / f"sheet-{number:02d}.png"
        path.write_bytes(_encoded(".png", _drawn(rows[start : start + _ROWS_OF_PNG])))
        paths.append(path)
    return paths


def _page(rows: Sequence[SheetRow], title: str, note: str) -> str:
    cells = []
    for row in rows:
        key, figures, fault = (html.escape(line) for line in row.lines())
        images = "".join(f"<td>{_image(tile)}" for tile in row.tiles.values())
        cells.append(f'<tr>{images}<td>{key}<br>{figures}<br><span class="fault">{fault}</span>')
    return _PAGE.format(
        title=html.escape(title),
        note=html.escape(note),
        heads="<th>".join(html.escape(head) for head in rows[0].tiles),
        rows="\n".join(cells),
    )


def _image(tile: Bytes) -> str:
    data = base64.b64encode(_encoded(".jpg", tile)).decode()
    return f'<img src="data:image/jpeg;base64,{data}">'


def _drawn(rows: Sequence[SheetRow]) -> Bytes:
    """One PNG: heads, then rows of tiles, with text on the right."""
    step, head = _TILE + 6, 24
    heads = list(rows[0].tiles)
    width = step * len(heads) + 3 * step
    sheet = np.full((head + step * len(rows), width, 3), _PAPER, np.uint8)
    for column, name in enumerate(heads):
        _write(sheet, name, column * step, 16)
    for number, row in enumerate(rows):
        top = head + number * step
        for column, tile in enumerate(row.tiles.values()):
            height, width = tile.shape[:2]
            left = column * step
            sheet[top : top + height, left : left + width] = (
                tile if tile.ndim == 3 else tile[..., None]
            )
        for line, text in enumerate(row.lines()):
            ink = _WARNING if line == _LINES - 1 else _INK
            _write(sheet, _ascii(text), len(heads) * step, top + 16 + 16 * line, ink)
    return sheet


def _write(sheet: Bytes, text: str, left: int, base: int, ink: tuple[int, int, int] = _INK) -> None:
    cv2.putText(sheet, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.42, ink, 1, cv2.LINE_AA)


def _ascii(text: str) -> str:
    """OpenCV's letters; the end of a long name says more than its beginning."""
    plain = json.dumps(text)[1:-1]
    return plain if len(plain) <= 50 else "..." + plain[-47:]


def _encoded(ending: str, pixels: Bytes) -> bytes:
    """Encode RGB or gray."""
    ordered = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(ending, ordered)
    assert encoded, ending
    return bytes(data.tobytes())
