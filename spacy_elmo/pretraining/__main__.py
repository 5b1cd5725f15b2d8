"""`python -m spacy_elmo.pretraining CORPUS OUT --config CFG`: pretraining without spaCy.

Does the same as `python -m spacy elmo pretrain`. Also for `torchrun -m spacy_elmo.pretraining`.
"""

import argparse
import signal
import sys

from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining.config import Config, split_overrides
from spacy_elmo.pretraining.process import keep_freed_memory
from spacy_elmo.pretraining.run import pretrain


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m spacy_elmo.pretraining",
        description="Train a biLM on pre-tokenized text, one sentence per line.",
        epilog="You can pass any setting of the config as --section.key value. "
        "Example: python -m spacy_elmo.pretraining corpus/ my_elmo/ --config pretrain.cfg --training.batch_size 64",
    )
    parser.add_argument("corpus", help="output of `prepare`, or a file, directory or glob pattern of text")
    parser.add_argument("out", help="directory for the model, its log and checkpoints")
    parser.add_argument("--config", required=True, help="settings; `init-config --pretrain` writes such a file")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in OUT")
    parser.add_argument("--init-from", metavar="MODEL", help="start from the weights of this model, on new text")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    try:
        settings, others = split_overrides(sys.argv[1:])
        arguments = parser.parse_args(others)
        keep_freed_memory()
        config = Config.from_file(arguments.config, settings)
        pretrain(
            arguments.corpus,
            arguments.out,
            config,
            resume=arguments.resume,
            init_from=arguments.init_from,
            show_progress=not arguments.quiet,
        )
    except ElmoError as error:
        print(f"✘ {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("✘ stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
