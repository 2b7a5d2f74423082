"""Networks that learn masks from the noisy maps of hand-crafted methods, without any label.

hand-crafted maps -> phase I: each method's maps are refined by networks of their own
                  -> phase II: one network learns from all refined maps
                  -> a small student learns from that network, and predicts whole data sets

The way is that of DeepUSPS (Nguyen et al., NeurIPS 2019); docs/saliency_training.md tells it.
"""
