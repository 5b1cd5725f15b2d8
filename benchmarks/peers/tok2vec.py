"""spaCy's own NER for CPU: `spacy init config --pipeline ner`."""

from typing import Any


def ner_config(batch_size: int) -> Any:
    """Return the config of the pipeline."""
    from spacy.cli.init_config import init_config

    return init_config(lang="en", pipeline=["ner"], optimize="efficiency", gpu=False, silent=True)
