"""`python -m bench COMMAND`; with --json the last line of standard output is one JSON object."""

from __future__ import annotations

from console import Group, outlive_output, spin_briefly

bench = Group(
    "bench",
    help="Measure and check the pipeline.",
    places={
        "augment": "bench.commands:augment_command",
        "certificate": "bench.certificate.command:certificate_command",
        "decode": "bench.ladder_commands:decode_command",
        "ladder": "bench.ladder_commands:ladder_command",
        "loader": "bench.ladder_commands:loader_command",
        "order": "bench.commands:order_command",
        "outlines": "bench.outlines.command:outlines_command",
        "plan": "bench.planner.command:plan_command",
        "plan-check": "bench.planner.check:plan_check_command",
        "scaling": "bench.scaling.command:scaling_command",
        "step": "bench.step.command:step_command",
        "trace": "bench.commands:trace_command",
    },
)

if __name__ == "__main__":
    outlive_output()
    spin_briefly()
    bench(prog_name="python -m bench")
