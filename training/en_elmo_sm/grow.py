"""Make a model with wider vectors that predicts about the same, so that training can continue.

    python training/en_elmo_sm/grow.py STATE TEXT OUT WIDTH CELLS

STATE: a model directory with its softmax; TEXT: sentences on which to compare the cells; OUT: folder for the new model.
WIDTH: width of one direction, not less than before. The token embedding and the projection of the cells get
    more outputs, which are random combinations of their inputs. Nothing reads these yet, so nothing changes (as in
    Net2Net, Chen et al. 2016).
CELLS: cells of a layer, not more than before. The cells whose outputs count least in the projection are removed (root
    mean square of the outputs, times the norm of the cell's row). The projection is fitted to its old results by least
    squares.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.characters import BOS, EOS
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.pretraining.text import read_sentences

SENTENCES, LENGTH = 1_000, 20  # for comparing cells: number of sentences, and words of each
RIDGE = 1e-3  # added to the diagonal of the least squares, times its mean


def grow(state: Path, text: Path, out: Path, width: int, cells: int) -> None:
    """Write the wider model and its softmax to `out`.

    Raises:
        ElmoError: the state cannot be read.
    """
    old, seed = Evaluator.load(state, "cpu"), torch.Generator().manual_seed(0)
    options = old.bilm.options
    new = BiLM(replace(options, lstm=replace(options.lstm, projection_dim=width, dim=cells)), seed=None)
    softmax = Softmax(len(old.vocabulary), width, seed=None)
    new.card = old.bilm.card
    with torch.no_grad():
        widen_embedding(old.bilm, new, seed)
        samples = outputs_of_cells(old.bilm, first_sentences(text))
        for layer, grown, outputs in zip(old.bilm.layers, new.layers, samples, strict=True):
            rebuild(layer, grown, outputs, seed)
        softmax.weight.zero_()[:, : options.lstm.projection_dim] = old.softmax.weight
        softmax.bias.copy_(old.softmax.bias)
    formats.write(new, out, vocabulary=old.vocabulary.words, softmax=softmax)


def widen_embedding(old: BiLM, new: BiLM, seed: torch.Generator) -> None:
    """Copy the character CNN; the new part of its projection is random, with the spread of the old part."""
    tensors = old.embedder.state_dict()
    weight, bias = tensors["projection.weight"], tensors["projection.bias"]
    added = new.options.lstm.projection_dim - len(bias)
    random = torch.randn(len(weight), added, generator=seed) * weight.std()
    tensors["projection.weight"] = torch.cat([weight, random], 1)
    tensors["projection.bias"] = torch.cat([bias, bias.new_zeros(added)])
    new.embedder.load_state_dict(tensors)


def first_sentences(text: Path) -> list[Sequence[str]]:
    """Return the first words of long sentences."""
    long = (words for words, _ in read_sentences([text]) if len(words) >= LENGTH)
    return [words[:LENGTH] for words in islice(long, SENTENCES)]


def outputs_of_cells(bilm: BiLM, sentences: Sequence[Sequence[str]]) -> list[Tensor]:
    """Return the input of each layer's projection, from zero state: `[2, n_samples, dim]`."""
    forward = [word for place in zip(*([BOS, *words] for words in sentences), strict=True) for word in place]
    backward = [word for place in zip(*([EOS, *reversed(words)] for words in sentences), strict=True) for word in place]
    x = bilm.embed([*forward, *backward]).view(2, LENGTH + 1, len(sentences), -1)
    found = []
    for number, layer in enumerate(bilm.layers):
        outputs, hidden = unroll(layer, x)
        found.append(outputs.flatten(1, 2))
        x = hidden + x if number and bilm.options.lstm.use_skip_connections else hidden
    return found


def unroll(layer: BidirectionalLSTMLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of the cells and the projected outputs; x: `[2, steps, rows, n_in]`."""
    rows, clip = x.shape[2], torch.inf if layer.cell_clip is None else layer.cell_clip
    hidden, cell = x.new_zeros(2, rows, layer.projection_dim), x.new_zeros(2, rows, layer.dim)
    outputs, projected = [], []
    for step in x.unbind(1):
        gates = torch.bmm(torch.cat([step, hidden], -1), layer.weight) + layer.bias[:, None]
        enter, keep, leave, candidate = gates.chunk(4, -1)
        cell = (keep + layer.forget_bias).sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        cell = cell.clamp(-clip, clip)
        outputs.append(leave.sigmoid() * cell.tanh())
        hidden = project(layer, outputs[-1])
        projected.append(hidden)
    return torch.stack(outputs, 1), torch.stack(projected, 1)


def project(layer: BidirectionalLSTMLayer, outputs: Tensor) -> Tensor:
    """Project and clip the outputs of the cells."""
    limit = torch.inf if layer.proj_clip is None else layer.proj_clip
    return torch.bmm(outputs, layer.projection).clamp(-limit, limit)


def rebuild(old: BidirectionalLSTMLayer, new: BidirectionalLSTMLayer, outputs: Tensor, seed: torch.Generator) -> None:
    """Set the parameters of a layer with other cells and width. outputs: of the old cells, `[2, n_samples, dim]`."""
    width, wider = old.projection_dim, new.projection_dim
    new.weight.zero_()
    for direction, given in enumerate(outputs):
        projection = old.projection[direction]
        counts = given.square().mean(0).sqrt() * projection.norm(dim=1)
        kept = counts.topk(new.dim).indices.sort().values
        columns = (kept + old.dim * torch.arange(4)[:, None]).flatten()  # the four gates of the cells
        read, recur = old.weight[direction][:, columns].split([old.n_in, width])
        new.weight[direction, : old.n_in], new.weight[direction, new.n_in : new.n_in + width] = read, recur
        new.bias[direction] = old.bias[direction][columns]
        wanted = given @ projection
        fitted = projection if new.dim == old.dim else least_squares(given[:, kept], wanted)
        random = torch.randn(new.dim, wider - width, generator=seed)
        scale = wanted.std() / given[:, kept].square().mean(0).sum().sqrt()  # results as large as the others
        new.projection[direction] = torch.cat([fitted, scale * random], 1)


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """Return the matrix that maps `x` to `y` with the least squared error."""
    gram = x.T @ x
    return torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)), x.T @ y)


if __name__ == "__main__":
    grow(*(Path(argument) for argument in sys.argv[1:4]), *map(int, sys.argv[4:6]))
