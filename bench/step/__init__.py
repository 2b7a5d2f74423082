"""`python -m bench step`: what the training step costs beyond its networks.

subject.py is what is measured, speed.py times it beside the bare networks, memory.py compares the
peak of view by view with that of all views at once, inside.py looks into a step: operators, and
waits of the host. rung.py runs them in processes of their own, text.py shows what came out.
"""
