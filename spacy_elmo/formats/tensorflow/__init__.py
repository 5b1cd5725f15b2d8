"""Models that TensorFlow has saved, read without it: bilm-tf's checkpoints and TF-Hub modules."""
