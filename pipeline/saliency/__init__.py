"""Saliency masks: how they are stored, and what they say about a pixel."""
