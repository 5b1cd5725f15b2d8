"""Train a biLM on your own text: corpus, objective, trainer, evaluation. Needs torch, numpy and h5py, but no spaCy."""
