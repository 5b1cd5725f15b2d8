"""Projects vectors to two dimensions: PCA, t-SNE or UMAP."""

from typing import Any, Literal

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.layers import Array

Method = Literal["pca", "tsne", "umap"]

_NEIGHBOURS = 30  # t-SNE's perplexity, if there are more than three times as many points
_BEFORE_TSNE = 50  # components to which PCA reduces vectors first, as in van der Maaten & Hinton (2008)


def project(vectors: Array, method: Method = "pca", seed: int = 0) -> tuple[Array, tuple[str, str]]:
    """Return places `[n, 2]` and the names of the two axes. The same seed gives the same result.

    vectors: `[n, width]`, at least 3.

    This needs scikit-learn, and umap-learn for UMAP.

    Raises:
        ElmoError: all vectors are the same.
    """
    if not vectors.std(axis=0).any():
        raise ElmoError(
            "all points have the same vector, so there is nothing to draw; use words in different sentences"
        )
    from sklearn.decomposition import PCA

    if method == "pca":
        pca = PCA(2, svd_solver="full")
        places: Array = pca.fit_transform(vectors)
        first, second = (
            f"component {n + 1} ({share:.0%} of variance)" for n, share in enumerate(pca.explained_variance_ratio_)
        )
        return places, (first, second)
    mapping = _tsne(len(vectors), seed) if method == "tsne" else _umap(len(vectors), seed)
    name = {"tsne": "t-SNE", "umap": "UMAP"}[method]
    n_before = min(_BEFORE_TSNE, *vectors.shape)
    places = mapping.fit_transform(PCA(n_before, svd_solver="full").fit_transform(vectors))
    return places, (f"{name} 1", f"{name} 2")


def _tsne(n: int, seed: int) -> Any:
    from sklearn.manifold import TSNE

    return TSNE(2, perplexity=min(_NEIGHBOURS, (n - 1) / 3), init="pca", random_state=seed)


def _umap(n: int, seed: int) -> Any:
    from umap import UMAP

    return UMAP(n_components=2, n_neighbors=min(15, n - 1), random_state=seed, n_jobs=1)
