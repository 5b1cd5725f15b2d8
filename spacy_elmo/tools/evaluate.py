"""Measures perplexity and minimal-pair accuracy of a model (behind `python -m spacy elmo evaluate`)."""

import sys
from typing import Any

from spacy_elmo.pretraining import blimp
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.tools import language
from spacy_elmo.tools.tokenized import sentences_in


def evaluate_model(
    model: str,
    text: str | None,
    pairs: str | None,
    lang: str = "en",
    device: str = "auto",
    show_progress: bool = False,
    softmax: str | None = None,
) -> dict[str, Any]:
    """Return what `evaluate --json` prints.

    text: tokenized, see `find_files`; pairs: directory of BLiMP's files, which spaCy's tokenizer for `lang` splits.
    device: see `choose_device`; softmax: see `Evaluator.load`.

    Raises:
        ElmoError: the model lacks a part, a text cannot be read, or there is no such device or language.
    """
    evaluator = Evaluator.load(model, device, softmax)
    figures: dict[str, Any] = {}
    if text is not None:
        with sentences_in(text) as sentences:
            evaluation = evaluator.perplexity(sentences, show_progress=show_progress)
        figures.update(evaluation.to_dict())
        if evaluation.warning:
            print(f"⚠ {evaluation.warning}", file=sys.stderr)
    if pairs is not None:
        tokenizer = language.blank(lang).tokenizer
        result = blimp.score(
            evaluator, blimp.read_pairs(pairs), lambda s: [token.text for token in tokenizer(s)], show_progress
        )
        figures["blimp"] = result.to_dict()
    return figures


def table(figures: dict[str, Any]) -> str:
    """Return the figures as readable lines."""
    lines = []
    if "perplexity" in figures:
        names = ("forward_perplexity", "backward_perplexity", "perplexity")
        lines += [f"{figures['tokens']:,} predictions in each direction", ""]
        lines.append(f"{'perplexity':<16}{'forward':>10}{'backward':>10}{'mean':>10}")
        for kind, values in (("carried state", figures), ("zero state", figures["zero_state"])):
            lines.append(f"{kind:<16}" + "".join(f" {values[name]:>9.2f}" for name in names))
        lines += ["", f"{figures['unknown_share']:.2%} of the words are not in the vocabulary and count as <UNK>"]
    if "blimp" in figures:
        overall = {key: value for key, value in figures["blimp"].items() if key != "by_phenomenon"}
        lines += ["", f"{'BLiMP accuracy':<28}{'forward':>9}{'backward':>10}{'sum':>8}"]
        for name, row in [("all", overall), *figures["blimp"]["by_phenomenon"].items()]:
            lines.append(f"{name:<28}{row['forward']:>9.1%}{row['backward']:>10.1%}{row['sum']:>8.1%}")
    return "\n".join(lines).strip("\n")
