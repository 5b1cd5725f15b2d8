"""Evaluate on the held-out text, write the last and the best model, and stop early."""

import json
import math
import sys
from pathlib import Path

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.batches import Batch
from spacy_elmo.pretraining.callbacks import Callback
from spacy_elmo.pretraining.evaluation import Evaluation, Evaluator
from spacy_elmo.pretraining.inputs import CorpusFiles
from spacy_elmo.pretraining.logs import append_line, read_log
from spacy_elmo.pretraining.model_folder import model_card, write_model
from spacy_elmo.pretraining.run_folder import RunFolder
from spacy_elmo.pretraining.steps import Steps
from spacy_elmo.support.text import read_sentences


class ModelWriter(Callback):
    """Evaluates on the held-out text, if there is any, and writes the last and the best model.

    The best one is chosen from zero state, because the model is used like that.
    """

    def __init__(self, folder: RunFolder, files: CorpusFiles, show_progress: bool) -> None:
        self.folder, self.files, self.show_progress = folder, files, show_progress
        self._has_warned = False  # that zero and carried state disagree, which is not always bad
        self._figures = ""  # of the written model

    def on_log(self, steps: Steps, batch: Batch, line: dict[str, float]) -> None:
        """Keep the figures to show if there is no held-out text."""
        if not self.files.heldout:
            self._figures = f"training perplexity {line['perplexity']:.4g}"

    def on_evaluation(self, steps: Steps) -> bool:
        """Evaluate and write; return whether the last `patience` evaluations brought no improvement."""
        with steps.averaged():
            evaluation = self._evaluate(steps) if self.files.heldout else None
            self._write(steps, evaluation)
        patience = steps.config.training.patience
        if evaluation is None or patience is None or self._evaluations_since_best() < patience:
            return False
        self._say(f"ℹ {patience} evaluations without a better held-out perplexity: the run ends")
        return True

    def on_stop(self, steps: Steps) -> None:
        """Write the current model."""
        with steps.averaged():
            self._write(steps, None)

    def on_end(self, steps: Steps) -> None:
        """Print how good the model is, where it is, and how to use it."""
        last, best = _perplexity_in(self.folder.path), self._best_perplexity()
        found = self.folder.path
        self._say(f"✔ {self._figures or 'done'}: the model is in {found}")
        if best < last:
            found = self.folder.best
            self._say(f"✔ best held-out perplexity {best:.4g} from zero state: that model is in {found}")
        self._say(f'  nlp.add_pipe("elmo", config={{"model": {{"weights": {json.dumps(str(found))}}}}})')

    def _say(self, text: str) -> None:
        if self.show_progress:
            print(text, file=sys.stderr)

    def _evaluate(self, steps: Steps) -> Evaluation:
        """Compute and log the perplexity on the held-out text; warn if zero and carried state disagree."""
        evaluator = Evaluator(steps.model.bilm, steps.model.softmax, steps.batches.corpus.vocabulary)
        sentences = (words for words, _ in read_sentences(self.files.heldout))
        evaluation = evaluator.perplexity(sentences, steps.config.logging.evaluate_tokens, self.show_progress)
        figures = evaluation.to_dict()
        line = {**steps.progress, "predictions": figures.pop("tokens"), **figures}
        append_line(self.folder.heldout_metrics, line)
        if evaluation.warning and (evaluation.is_bad_from_zero or not self._has_warned):
            self._has_warned = True
            steps.group.warn(evaluation.warning)
        zero_state, carried = evaluation.zero_state.perplexity, evaluation.carried.perplexity
        self._figures = f"held-out perplexity {zero_state:.4g} from zero state, {carried:.4g} with carried state"
        return evaluation

    def _write(self, steps: Steps, evaluation: Evaluation | None) -> None:
        card = model_card(self.folder.path, steps, self.files, evaluation)
        with self.folder.writing():
            write_model(self.folder.path, steps, card)
            if evaluation and evaluation.zero_state.perplexity < self._best_perplexity():
                write_model(self.folder.best, steps, card)

    def _best_perplexity(self) -> float:
        return _perplexity_in(self.folder.best)

    def _evaluations_since_best(self) -> int:
        path, perplexities = self.folder.heldout_metrics, []
        for _, line in read_log(path):
            try:
                perplexities.append(float(line["zero_state"]["perplexity"]))
            except (KeyError, TypeError, ValueError):
                raise PretrainingError(f"{path}: a line has no perplexity from zero state; delete it") from None
        return len(perplexities) - 1 - perplexities.index(min(perplexities))


def _perplexity_in(folder: Path) -> float:
    """Return the held-out perplexity from zero state in a model's card; infinite if there is none."""
    try:
        card = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
        return float(card["heldout_perplexity"]["zero_state"]["perplexity"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return math.inf
