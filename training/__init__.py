"""What surrounds the step: configuration, presets, processes, logs and the run directory."""

# Of training/presets.py; here, where a command line can be read without importing torch.
PRESET_NAMES = (
    "imagenet-rn50",
    "imagenet-rn50-300",
    "imagenet-rn50-100",
    "imagenet-rn50-40",
    "small-images",
    "demo",
)
DEFAULT_PRESET = "imagenet-rn50"
SMALL_PRESET = "small-images"
