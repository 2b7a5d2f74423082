"""`python -m pipeline.saliency COMMAND`; with --json the last line of output is one JSON object."""

from __future__ import annotations

from console import Group, outlive_output, spin_briefly

main = Group(
    "saliency",
    help="Saliency masks without labels.",
    places={
        "evaluate": "pipeline.saliency.evaluate_command:evaluate_command",
        "predict": "pipeline.saliency.predict_command:predict_command",
        "sheet": "pipeline.saliency.sheet_command:sheet_command",
        "train": "pipeline.saliency.train_command:train_command",
    },
)

if __name__ == "__main__":
    outlive_output()
    spin_briefly()
    main(prog_name="python -m pipeline.saliency")
