"""The certificate: is the model ever starved? `python -m bench certificate --help`.

The same training step is measured fed by the loader (FULL) and on views that are made already and
lie on the device (SYNTHETIC), in blocks that take turns; docs/feeding.md says what each line means.
"""
