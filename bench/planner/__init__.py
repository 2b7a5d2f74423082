"""`python -m bench plan`: what a machine will do with a configuration, before it is rented.

measure.py times the stages here, compute.py counts what the model asks for, predict.py turns both
into rates, a bottleneck and days, memory.py into gigabytes; command.py shows them.
"""
