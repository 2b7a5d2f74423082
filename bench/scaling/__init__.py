"""`python -m bench scaling`: what happens to a run on more GPUs.

volume.py counts what a step sends, efficiency.py predicts from it by a simple model of links and
latencies, loaders.py runs the loaders of one node on its cores against a demand, rung.py puts it
together and text.py shows it. docs/scaling.md has what came out.
"""
