"""Other libraries at the same work: the six views of each picture, by their own operators.

Each file has `make(pictures, recipe, ..., turns) -> Built`, whose `run` returns the views in the
order of the recipe as float32 [B, 3, s, s] of one list entry each, normalised. All that a user
would prepare once (imports, compilation, the layout of decoded pictures) happens in `make`. What a
peer lacks stands in its WHAT: the saliency masks in all cases.

Files that end in `_loader` go from bytes on disk to the same views: their `make(source, recipe,
batch, workers, ...) -> Stream` gives batch after batch without an end, every picture once a pass,
with its label. `libjpeg_loop` decodes, and nothing else.

Values are those of the recipe, as far as a peer's operator has the same parameter: brightness is
a factor in all of them, contrast goes about the mean of the gray picture, and the order of colour
operations is fixed or drawn as each peer does it.
"""
