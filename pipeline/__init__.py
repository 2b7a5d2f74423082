"""From shards to views: order, randomness, reading, decoding, augmentation and feeding.

Makes tensors and knows nothing of models. Importing it needs torch and numpy only.
"""
