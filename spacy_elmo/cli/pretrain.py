"""`python -m spacy elmo pretrain`: train a biLM on your own text."""

from typer import Argument, BadParameter, Context, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def pretrain(
    ctx: Context,
    corpus: str = Argument(help="Directory from `prepare`, or a file, directory or glob pattern of tokenized text"),
    out: str = Argument(help="Directory for the model, its log and checkpoints"),
    config: str = Option(help="Config file with the settings, from `init-config --pretrain`"),
    resume: bool = Option(False, "--resume", help="Resume from the checkpoint in OUT"),
    init_from: str | None = Option(None, metavar="MODEL", help="Start from the weights of this model, on new text"),
    quiet: bool = Quiet,
) -> None:
    """Train a biLM on tokenized text, one sentence per line. You can override any setting with --section.key value.

    Example: python -m spacy elmo pretrain corpus/ my_elmo/ --config pretrain.cfg --training.batch_size 64
    """
    from spacy_elmo.pretraining import process
    from spacy_elmo.pretraining.config import Config, split_overrides
    from spacy_elmo.pretraining.run import pretrain as run

    overrides, others = split_overrides(ctx.args)
    if others:
        raise BadParameter(f"unknown argument {others[0]!r}; settings come last, as --section.key value")
    settings = Config.from_file(config, overrides)
    process.keep_freed_memory()
    run(corpus, out, settings, resume=resume, init_from=init_from, show_progress=not quiet)
