"""The settings of `embed`, with their defaults and checks."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from spacy_elmo.errors import ElmoError


def _setting(default: Any, help: str, **more: Any) -> Any:
    """Define a setting. help: a line for `--help`; min: the smallest value; metavar, short: of the option."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class EmbedSettings:
    """How to embed a text: the keywords of `embed_file`, and the options of `python -m spacy elmo embed`.

    model: see `formats.open_model`.
    layers: "all", "top", "mean" (or "average") of all, or the number of a layer (0 is the token embedding).
    pipeline: a spaCy pipeline or language whose tokenizer splits the lines; None: white space does.
    float16: write half-precision numbers.
    forget_sentences: leave out the lines themselves.
    use_sentence_keys: name arrays by lines instead of line numbers; a repeated line has one array.
    allow_blank: a blank line has an array without tokens, as in bilm-tf; otherwise it is an error, as in AllenNLP.
    batch_size: maximum number of lines in memory at once; max_batch_tokens: as in `BiLM.encode`.
    carry_state: carry LSTM state from each `batch_size` lines to the next, row by row, for parity with the originals.
    device: see `choose_device`; with engine "ray", the device of each actor.
    force: replace the output, and drop what an interrupted run left. resume: continue an interrupted run.
    engine: "local" (this process), or "ray": `workers` actors on the Ray at `ray_address`, see `encode_on_ray`.

    Raises:
        ElmoError: a number is too small, a value is not one of the choices, or two settings exclude each other.
    """

    model: str = _setting("en_elmo_sm", "Name, directory, archive, .hdf5 file or checkpoint of a model")
    layers: str | int = _setting("all", "all, top, mean or average, or the number of a layer (0: the token embedding)")
    pipeline: str | None = _setting(
        None, "Read raw text, and split it with the tokenizer of this pipeline or language", metavar="NAME_OR_LANG"
    )
    float16: bool = _setting(False, "Write half-precision numbers: half the size")
    forget_sentences: bool = _setting(False, "Leave out the sentences themselves")
    use_sentence_keys: bool = _setting(False, "Name arrays by their sentences instead of line numbers (HDF5, npz)")
    allow_blank: bool = _setting(False, "Give blank lines arrays without tokens, as bilm-tf does")
    batch_size: int = _setting(
        2048, "Maximum number of lines in memory at once; with --carry-state, the lines of a batch", min=1
    )
    max_batch_tokens: int = _setting(4096, "Number of tokens to process at once", min=1)
    carry_state: bool = _setting(
        False, "Carry LSTM state from batch to batch as the original tools do, only for parity"
    )
    device: str = _setting("auto", "auto (a GPU if there is one), cpu, cuda, cuda:1 or mps")
    force: bool = _setting(False, "Replace OUT, and what an interrupted run left of it", short="-f")
    resume: bool = _setting(False, "Resume an interrupted run from OUT.part")
    engine: Literal["local", "ray"] = _setting("local", "local: this process; ray: actors of Ray Data")
    ray_address: str | None = _setting(
        None, "Address of a Ray cluster (default: a Ray on this machine)", metavar="ADDRESS"
    )
    workers: int = _setting(1, "Number of actors for --engine ray", min=1)
    gpus_per_worker: float = _setting(0, "Number of GPUs that each actor asks for", min=0)

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for setting in fields(self):
            name, value, least = setting.name, getattr(self, setting.name), setting.metadata.get("min")
            if least is not None and not value >= least:
                raise ElmoError(f"{name} is {value}, expected at least {least}")
            choices = get_args(types[name]) if get_origin(types[name]) is Literal else ()
            if choices and value not in choices:
                raise ElmoError(f"{name} is {value!r}, expected {' or '.join(map(repr, choices))}")
        if self.carry_state and self.engine == "ray":
            raise ElmoError(
                "carry_state needs the text in order, but engine ray splits it between actors; use engine local"
            )
