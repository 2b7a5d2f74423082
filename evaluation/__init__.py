"""How good the features of an encoder are: kNN, linear classifiers, and the report of a run."""
