"""What surrounds the step: configuration, presets, processes, logs and the run directory."""
