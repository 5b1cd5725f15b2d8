"""`python -m spacy elmo substitutes`: the words a biLM itself would put in place of each word."""

import json
from dataclasses import asdict

from typer import Argument, Option

from spacy_elmo.cli.output import Device, Quiet, failing_clearly


@failing_clearly
def substitutes(
    text: str = Argument(help="Pre-tokenized text, one sentence a line: file, directory or glob pattern"),
    model: str = Option(help="Directory of a model with its vocab.txt and softmax.hdf5"),
    top: int = Option(10, min=1, help="Words to show for each token"),
    device: str = Device,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show for each token the words that the forward LM, the backward LM and both together expect in its place.

    Example: python -m spacy elmo substitutes sentences.txt --model my_elmo/ --top 5
    """
    from spacy_elmo.tools import substitutes as tool

    found = tool.of_text(model, text, top, device)
    if not as_json:
        for words in found:
            print(tool.table(words))
        return
    for number, words in enumerate(found):  # piece by piece: the whole of a long text would fill the memory
        print(", " if number else '{"sentences": [', json.dumps([asdict(one) for one in words]), sep="", end="")
    print("]}")
