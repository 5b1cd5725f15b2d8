"""`python -m spacy elmo substitutes`: show the words that a biLM expects in place of each word."""

from dataclasses import asdict

from typer import Argument, Option

from spacy_elmo.cli.output import Device, Quiet, Softmax, failing_clearly, print_list


@failing_clearly
def substitutes(
    text: str = Argument(help="Tokenized text, one sentence per line: file, directory, glob pattern, or - for stdin"),
    model: str = Option(
        help="Name, directory, archive, .hdf5 file or checkpoint of a model with a softmax; or of any, with --softmax"
    ),
    softmax: str | None = Softmax,
    top: int = Option(10, min=1, help="Words to show for each token"),
    device: str = Device,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show the words that the forward LM, the backward LM and both together expect in place of each token.

    Example: python -m spacy elmo substitutes sentences.txt --model my_elmo/ --top 5

    Example: python -m spacy elmo substitutes sentences.txt --model en_elmo_sm --softmax training/en_elmo_sm/state
    """
    from spacy_elmo.tools import substitutes as tool

    found = tool.of_text(model, text, top, device, softmax)
    if not as_json:
        for words in found:
            print(tool.table(words))
        return
    print_list("sentences", ([asdict(one) for one in words] for words in found))
