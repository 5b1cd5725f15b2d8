"""Read models that TensorFlow saved, without TensorFlow: bilm-tf's checkpoints and TF-Hub modules."""
