"""From views to updated weights: networks, loss, step, optimizer, processes, checkpoints.

Eats tensors and knows nothing of how they were made. Importing it needs torch and numpy only.
"""
