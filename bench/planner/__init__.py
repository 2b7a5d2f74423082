"""`python -m bench plan`: what a machine will do with a configuration, before it is rented.

measure.py times the stages here, compute.py counts what the model asks for, predict.py turns both
into rates, a bottleneck and days; command.py shows them. Memory and operations are counted by
training/forecast, which `train.py --plan` has in common with it.
"""
