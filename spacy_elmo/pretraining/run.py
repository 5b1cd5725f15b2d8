"""Train a biLM from a corpus and settings, and write it to a directory: what the `pretrain` command does."""

from contextlib import ExitStack

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.batches import Batches, Resets
from spacy_elmo.pretraining.callbacks import Callback, MetricsLog, SaturationCheck, TensorBoard
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.corpus import Corpus
from spacy_elmo.pretraining.distributed import Group, join_group
from spacy_elmo.pretraining.inputs import CorpusFiles, FirstModel, make_model, read_corpus
from spacy_elmo.pretraining.model_writer import ModelWriter
from spacy_elmo.pretraining.precision import choose_precision
from spacy_elmo.pretraining.run_folder import CONFIG, HELDOUT_METRICS, METRICS, RunFolder
from spacy_elmo.pretraining.steps import Steps
from spacy_elmo.pretraining.trainer import Trainer
from spacy_elmo.support.paths import place_of
from spacy_elmo.support.text import PathLike

__all__ = ["CONFIG", "HELDOUT_METRICS", "METRICS", "CorpusFiles", "pretrain"]


def pretrain(
    corpus: PathLike,
    out: PathLike,
    config: Config,
    *,
    resume: bool = False,
    init_from: PathLike | None = None,
    show_progress: bool = True,
) -> None:
    """Train a biLM on pre-tokenized text and write it to `out`, which you can then use as `weights = out`.

    corpus: file, directory or glob pattern of pre-tokenized text, or the directory that `prepare` wrote.
    out: directory for the model (`options.json`, `weights.hdf5`, `vocab.txt`, `softmax.hdf5`, `model_card.json`), the
        log (`metrics.jsonl`, `heldout.jsonl`), the checkpoint, the config and the encoded corpus. With held-out text,
        `best/` holds the model with the best held-out perplexity.
    resume: continue from the checkpoint in `out`. If the run was stopped before its first checkpoint, start from the
        beginning. Under `torchrun`, which restarts a failed process with the same arguments, also start a new run if
        there is none.
    init_from: model to start from, on new text. The run uses its architecture instead of the config's. It also uses its
        softmax if there is one, word by word if the vocabularies differ.

    Under `torchrun` each process calls this with the same arguments.

    Raises:
        ElmoError: see `Trainer.run`; or a text, a setting, the model or the checkpoint does not fit.
    """
    with join_group(config.training.device) as group, ExitStack() as stack:
        files, folder = CorpusFiles.find(corpus, config), RunFolder(place_of(out, "out", PretrainingError))
        if group.is_main:
            files.check_heldout(config)
            stack.enter_context(folder.open(config, resume, begins_with_a_model=init_from is not None))
        saved = _read_saved(folder, group, resume)
        saved_precision = saved.precision if saved else None
        precision = choose_precision(config.training.precision, saved_precision, group, show_progress)
        first = FirstModel.open(init_from) if init_from is not None else None
        config, origin = (first.adapt(config, group), first.origin) if first else (config, None)
        text = read_corpus(files, config, folder, group, saved is not None, show_progress)
        model = make_model(config, text.vocabulary, first, group)
        steps = Steps(model, _batches(text, config, group), config, precision, group, origin)
        if saved and (note := steps.restore(saved)):
            group.warn(note)
        trainer = Trainer(steps, folder, _callbacks(folder, files, config, group, show_progress), show_progress)
        if origin and not saved:
            trainer.save()  # the checkpoint stores the origin, which --resume alone does not know
        if group.is_main:
            folder.begin_logs(config, steps.progress["tokens"], steps.evaluation_is_due)
        del saved, first  # each as large as the model
        trainer.run()


def _read_saved(folder: RunFolder, group: Group, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to continue from in all processes; it may be only on the main process' disk."""
    saved = None
    if group.is_main and resume and folder.checkpoint.is_file():
        saved = Checkpoint.read(folder.checkpoint)
    return group.of_main(saved)


def _batches(text: Corpus, config: Config, group: Group) -> Batches:
    training = config.training
    resets = Resets(training.reset, training.reset_probability)
    rows = group.size * training.batch_size
    own = slice(group.rank * training.batch_size, (group.rank + 1) * training.batch_size)
    return Batches(text, rows, training.unroll_steps, resets, config.corpus.shuffle, training.seed, own)


def _callbacks(
    folder: RunFolder, files: CorpusFiles, config: Config, group: Group, show_progress: bool
) -> list[Callback]:
    """Make the callbacks of this process."""
    callbacks: list[Callback] = [SaturationCheck()]
    if group.is_main:
        callbacks += [MetricsLog(folder), ModelWriter(folder, files, show_progress)]
        callbacks += [TensorBoard(folder)] if config.logging.tensorboard else []
    return callbacks
