"""Write a trained language model and its card to a model directory, which `weights` and `evaluate` read."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from spacy_elmo import formats
from spacy_elmo.formats import beside
from spacy_elmo.pretraining.corpus import Corpus
from spacy_elmo.pretraining.evaluation import Evaluation
from spacy_elmo.pretraining.inputs import CorpusFiles
from spacy_elmo.pretraining.run_folder import CONFIG
from spacy_elmo.pretraining.steps import Steps
from spacy_elmo.version import VERSION


def write_model(folder: Path, steps: Steps, card: dict[str, Any]) -> None:
    """Write the model after these steps: biLM, softmax, vocabulary, card. Keep an `ATTRIBUTION.md` in the folder.

    Raises:
        OSError: a file cannot be written.
    """
    model, vocabulary = steps.model, steps.batches.corpus.vocabulary
    trained = copy.copy(model.bilm)
    trained.options = dataclasses.replace(trained.options, training=_bilm_tf_settings(steps))
    attribution = folder / beside.ATTRIBUTION
    if attribution.is_file():
        card = {**card, beside.ATTRIBUTION_TEXT: attribution.read_text(encoding="utf-8", errors="replace")}
    trained.card = card
    formats.write(trained, folder, vocabulary=vocabulary.words, softmax=model.softmax)


def _bilm_tf_settings(steps: Steps) -> dict[str, Any]:
    """Return the training settings under their names in bilm-tf's options.json."""
    training, optimizer, corpus = steps.config.training, steps.config.optimizer, steps.batches.corpus
    return {
        "all_clip_norm_val": optimizer.clip_norm,
        "batch_size": training.batch_size,
        "dropout": training.dropout,
        "learning_rate": optimizer.learning_rate,
        "n_epochs": training.n_epochs,
        "n_negative_samples_batch": training.n_negative_samples_batch,
        "n_tokens_vocab": len(corpus.vocabulary),
        "n_train_tokens": corpus.n_tokens,
        "sample_softmax": training.n_negative_samples_batch > 0,
        "unroll_steps": training.unroll_steps,
    }


def model_card(folder: Path, steps: Steps, files: CorpusFiles, evaluation: Evaluation | None) -> dict[str, Any]:
    """Return the `model_card.json` of the model after these steps, with entries about the model it started from."""
    corpus: Corpus = steps.batches.corpus
    progress = steps.progress
    average = f", weights averaged with decay {steps.average.decay}" if steps.average else ""
    card: dict[str, Any] = {
        "name": folder.resolve().name,
        "description": "A biLM trained with spacy-elmo.",
        "training_text": f"{corpus.n_tokens:,} tokens in {', '.join(path.name for path in files.train)}",
        "training": f"spacy-elmo {VERSION}, {steps.step:,} of {steps.n_steps:,} steps, "
        f"{progress['epoch']} epochs in {steps.precision}{average}; settings in {CONFIG}",
        "tokens_seen": progress["tokens"],
    }
    card.update(steps.origin or {})
    if evaluation is not None:
        card["heldout_perplexity"] = evaluation.to_dict()
    return card
