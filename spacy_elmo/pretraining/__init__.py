"""Training a biLM on one's own text: corpus, objective, trainer, evaluation. Torch, numpy and h5py; no spaCy."""
