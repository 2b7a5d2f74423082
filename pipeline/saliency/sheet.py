"""A contact sheet of masks: each image and its final mask, as one HTML file and as PNGs.

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

from files import write_text_whole
from pipeline.batch import Bytes
from pipeline.saliency.gate import Verdict

_TILE = 120  # pixels, the longer side of a thumbnail
LARGE = 240  # of the image and its final mask
_THRESHOLD = 127  # above it is foreground, as in a conversion
_EDGE = (255, 196, 0)  # colour of the outline
_FILL = 118  # level of a removed background: about ImageNet's mean colour
_ROWS_OF_PNG = 25
_INK, _PAPER, _WARNING = (40, 40, 40), (255, 255, 255), (190, 40, 30)

ABOUT = {  # map -> what it is; of methods whatever cue they follow
    "rbd": "colours that hardly touch the border (Zhu et al. 2014, robust background detection)",
    "mr": "what ranks low when the border is the query (Yang et al. 2013, manifold ranking)",
    "mc": "where a random walk takes longest to the border (Jiang et al. 2013, Markov chain)",
    "mbd": "what no smooth path joins to the border (Zhang et al. 2015, minimum barrier distance)",
    "hs": "contrast of regions at three sizes (Yan et al. 2013, hierarchical saliency)",
    "dsr": "what the border cannot reconstruct (Li et al. 2013, dense and sparse reconstruction)",
    "fusion": "the six methods fused",
    "finished": "the fusion cut along the image's own colours (dense CRF, GrabCut): what a "
    "conversion with --saliency auto stores",
    "student": "the network given as --model: what a conversion with --saliency-model stores",
    "truth": "the true mask, from --masks",
}

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>
* {{ box-sizing: border-box }}
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 16px; max-width: 1600px;
  color: #282828; background: #fff; overflow-wrap: anywhere }}
h1 {{ font-size: 22px; margin: 0 0 8px }} p {{ margin: 0 0 8px; max-width: 80ch }}
.rows {{ display: grid; gap: 16px; margin-top: 16px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)) }}
article {{ border: 1px solid #ddd; border-radius: 8px; padding: 10px; min-width: 0 }}
.verdict {{ font-weight: 600 }} .fault {{ color: #be281e }}
.key {{ color: #666; margin-bottom: 6px }}
.tiles {{ display: grid; gap: 6px; grid-template-columns: repeat(3, minmax(0, 1fr)) }}
.maps {{ display: grid; gap: 6px; grid-template-columns: repeat(auto-fill, minmax(90px, 1fr)) }}
figure {{ margin: 0 }} figcaption {{ color: #666; font-size: 12px }}
img {{ display: block; width: 100%; height: auto }} details {{ margin-top: 8px }}
summary {{ cursor: pointer }} dl {{ margin: 8px 0; display: grid; gap: 4px 12px;
  grid-template-columns: auto 1fr }} dt {{ font-weight: 600 }} dd {{ margin: 0 }}
</style><h1>{title}</h1>
<p>{note}</p>
<details><summary>What each map is</summary><dl>{legend}</dl></details>
<div class="rows">
{rows}
</div>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One image and what was made of it."""

    key: str
    image: Bytes  # RGB [H, W, 3]
    final: Bytes  # gray [H, W], 0..255: the mask that would be stored
    maps: Mapping[str, Bytes]  # name -> gray [h, w] thumbnail
    verdict: Verdict  # of the final mask
    confidence: float  # 0..1

    def lines(self) -> list[str]:
        fault = self.verdict.fault
        return [
            f"refused: {fault}" if fault else "accepted",
            f"covers {self.verdict.coverage:.0%}, confidence {self.confidence:.2f}",
            self.key,
        ]

    def tiles(self) -> dict[str, Bytes]:
        """The image, the final mask's outline over it, and the image without its background."""
        foreground = self.final > _THRESHOLD
        outlined = np.where(foreground[..., None], self.image, self.image * 0.4).astype(np.uint8)
        contours, _ = cv2.findContours(
            foreground.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(outlined, contours, -1, _EDGE, 2)
        masked = np.where(foreground[..., None], self.image, np.uint8(_FILL))
        return {"image": self.image, "outline": outlined, "masked view": masked}


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


def thumbnail(pixels: Bytes, longest: int = _TILE) -> Bytes:
    """Resize uint8 [H, W] or [H, W, 3] to so many pixels on the longer side."""
    scale = longest / max(pixels.shape[:2])
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
    write_text_whole(page, _page(rows, title, note))
    paths = [page]
    for number, start in enumerate(range(0, len(rows), _ROWS_OF_PNG), start=1):
        path = folder / f"sheet-{number:02d}.png"
        path.write_bytes(_encoded(".png", _drawn(rows[start : start + _ROWS_OF_PNG])))
        paths.append(path)
    return paths


def _page(rows: Sequence[SheetRow], title: str, note: str) -> str:
    names = [*rows[0].maps]
    legend = "".join(
        f"<dt>{html.escape(name)}<dd>{html.escape(ABOUT.get(name, 'a folder of --maps'))}"
        for name in names
    )
    cards = []
    for row in rows:
        verdict, figures, key = (html.escape(line) for line in row.lines())
        kind = "verdict fault" if row.verdict.fault else "verdict"
        tiles = "".join(_figure(name, tile) for name, tile in row.tiles().items())
        maps = "".join(_figure(name, tile) for name, tile in row.maps.items())
        cards.append(
            f'<article><div><span class="{kind}">{verdict}</span>, {figures}</div>'
            f'<div class="key">{key}</div><div class="tiles">{tiles}</div>'
            f'<details><summary>All maps</summary><div class="maps">{maps}</div></details>'
            "</article>"
        )
    return _PAGE.format(
        title=html.escape(title), note=html.escape(note), legend=legend, rows="\n".join(cards)
    )


def _figure(name: str, tile: Bytes) -> str:
    data = base64.b64encode(_encoded(".jpg", tile)).decode()
    text = html.escape(name, quote=True)
    image = f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _drawn(rows: Sequence[SheetRow]) -> Bytes:
    """One PNG: heads, then rows of tiles, with text on the right."""
    step, head = _TILE + 6, 24
    heads = [*rows[0].tiles(), *rows[0].maps]
    width = step * len(heads) + 3 * step
    sheet = np.full((head + step * len(rows), width, 3), _PAPER, np.uint8)
    for column, name in enumerate(heads):
        _write(sheet, name, column * step, 16)
    for number, row in enumerate(rows):
        top = head + number * step
        tiles = [*(thumbnail(tile) for tile in row.tiles().values()), *row.maps.values()]
        for column, tile in enumerate(tiles):
            height, width = tile.shape[:2]
            left = column * step
            sheet[top : top + height, left : left + width] = (
                tile if tile.ndim == 3 else tile[..., None]
            )
        for line, text in enumerate(row.lines()):
            ink = _WARNING if line == 0 and row.verdict.fault else _INK
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
