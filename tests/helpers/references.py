"""Shared code for comparisons with the outputs of the originals."""

import numpy as np
import torch

TOLERANCE = 1e-5
BATCHES = (slice(0, 12), slice(12, 24), slice(24, 29), slice(0, 14))  # of sentences.json; one state is carried


def close(ours, theirs):
    """Check that two arrays or tensors have one shape, and that no number differs by more than the tolerance."""
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
