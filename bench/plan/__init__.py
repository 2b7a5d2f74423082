"""The planner: what feeds what on a machine, before it is rented. `python -m bench plan --help`.

costs of one image (measured here, or shipped for a GPU) x a machine -> rates, bottleneck, memory
"""
