"""The biLM a second time, in float64 with torch's plain operators and as slowly as it reads: every token at full width,
one time step after the other, weights named and laid out as in bilm-tf's weights file. Gradients are autograd's."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import strategies as st

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import arrays


def character_ids(token, max_characters):
    """Rows of `char_embed`, which has no row for "no token"."""
    if token in ("<S>", "</S>"):
        inner = [256 if token == "<S>" else 257]
    else:
        inner = list(token.encode("utf8", "ignore"))[: max_characters - 2]
    ids = [258, *inner, 259]
    return ids + [260] * (max_characters - len(ids))


def embed(weights, options, token):
    """One token: all windows of the full width, highways, projection. Returns `[projection_dim]`."""
    cnn = options.char_cnn
    characters = weights["char_embed"][character_ids(token, cnn.max_characters_per_token)]
    pooled = []
    for i, (size, number) in enumerate(cnn.filters):
        kernel, bias = weights[f"CNN/W_cnn_{i}"][0], weights[f"CNN/b_cnn_{i}"]
        windows = [
            torch.einsum("wd,wdn->n", characters[start : start + size], kernel) + bias
            for start in range(cnn.max_characters_per_token - size + 1)
        ]
        assert windows[0].shape == (number,)
        pooled.append(torch.stack(windows).amax(dim=0))
    x = torch.cat(pooled)
    x = torch.relu(x) if cnn.activation == "relu" else torch.tanh(x)
    for i in range(cnn.n_highway):
        high = {name: weights[f"CNN_high_{i}/{name}"] for name in ("W_carry", "b_carry", "W_transform", "b_transform")}
        carry = torch.sigmoid(x @ high["W_carry"] + high["b_carry"])
        transform = torch.relu(x @ high["W_transform"] + high["b_transform"])
        x = carry * transform + (1 - carry) * x
    if cnn.n_filters != options.lstm.projection_dim:
        x = x @ weights["CNN_proj/W_proj"] + weights["CNN_proj/b_proj"]
    return x


def lstm(weights, options, direction, layer, x, clipped):
    """One layer in one direction over `x` in reading order; `clipped` counts what the clips cut off."""
    cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
    w, b, projection = weights[cell + "W_0"], weights[cell + "B"], weights.get(cell + "W_P_0")
    h, c = (torch.zeros(size, dtype=torch.float64) for size in (options.lstm.projection_dim, options.lstm.dim))
    outputs = []
    for step in x:
        i, j, f, o = (torch.cat([step, h]) @ w + b).chunk(4)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(j)
        if (limit := options.lstm.cell_clip) is not None:
            clipped["cell"] += int((abs(c) > limit).sum())
            c = c.clamp(-limit, limit)
        h = torch.sigmoid(o) * torch.tanh(c)
        if projection is not None:
            h = h @ projection
            if (limit := options.lstm.proj_clip) is not None:
                clipped["projection"] += int((abs(h) > limit).sum())
                h = h.clamp(-limit, limit)
        outputs.append(h)
    return torch.stack(outputs)


def weights_of(bilm):
    """Its weights as they lie in the file, in float64."""
    return {name: torch.from_numpy(array).double() for name, array in arrays(bilm)}


def encode(bilm, sentence, weights=None, clipped=None):
    """All layers of one sentence with its boundaries, `[n_layers + 1, n_tokens + 2, 2 * projection_dim]`.

    weights: the biLM's, if they are at hand; clipped: counts what the clips cut off.
    """
    weights = weights_of(bilm) if weights is None else weights
    clipped = {"cell": 0, "projection": 0} if clipped is None else clipped
    embedded = torch.stack([embed(weights, bilm.options, token) for token in ("<S>", *sentence, "</S>")])
    inputs = [embedded, embedded.flip(0)]
    layers = [torch.cat([embedded, embedded], dim=1)]
    for layer in range(bilm.options.lstm.n_layers):
        outputs = [lstm(weights, bilm.options, direction, layer, inputs[direction], clipped) for direction in (0, 1)]
        if layer and bilm.options.lstm.use_skip_connections:
            outputs = [new + old for new, old in zip(outputs, inputs, strict=True)]
        inputs = outputs
        layers.append(torch.cat([outputs[0], outputs[1].flip(0)], dim=1))
    return torch.stack(layers)


def product(x, weight, bias=None, activation=None, limit=None):
    """`x @ weight + bias` and what is done with the sums, `[rows, n_out]`."""
    sums = x.double() @ weight.double() + (0 if bias is None else bias.double())
    if limit is not None:
        return sums.clamp(-limit, limit)
    return sums if activation is None else getattr(torch, activation)(sums)


@pytest.fixture(scope="session")
def slowly():
    """The second implementation: `encode`, `embed`, `product`, and `weights_of`."""
    return SimpleNamespace(encode=encode, embed=embed, product=product, weights_of=weights_of)


def make(
    dim=6,
    projection_dim=3,
    n_layers=2,
    skip=True,
    cell_clip=3.0,
    proj_clip=3.0,
    filters=((1, 2), (2, 3)),
    embedding_dim=4,
    activation="relu",
    n_highway=1,
    max_characters=16,
    seed=0,
):
    """A biLM with random weights, biases not zero, of the architecture asked for."""
    options = {
        "lstm": {
            "dim": dim,
            "projection_dim": projection_dim,
            "n_layers": n_layers,
            "use_skip_connections": skip,
            "cell_clip": cell_clip,
            "proj_clip": proj_clip,
        },
        "char_cnn": {
            "filters": [list(pair) for pair in filters],
            "embedding": {"dim": embedding_dim},
            "activation": activation,
            "n_highway": n_highway,
            "max_characters_per_token": max_characters,
            "n_characters": 262,
        },
    }
    bilm = BiLM(BiLMOptions.from_dict(options), seed=None).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in bilm.parameters():
            fan_in = parameter.shape[-2] if parameter.dim() > 1 else 4
            parameter.normal_(std=1.5 * fan_in**-0.5, generator=generator)
        bilm.embedder.embedding[0].zero_()  # "no token", which no file has
    return bilm


@pytest.fixture(scope="session")
def make_bilm():
    """Make a small biLM with random weights; arguments say which architecture."""
    return make


@st.composite
def architectures(draw):
    """Keyword arguments of `make`, over everything that options.json can say."""
    max_characters = draw(st.sampled_from([3, 16, 50]))
    sizes = st.sampled_from(sorted({1, 2, 3, min(7, max_characters), max_characters}))
    filters = draw(st.lists(st.tuples(sizes, st.integers(1, 3)), min_size=1, max_size=3))
    n_filters = sum(number for _, number in filters)
    projection_dim = draw(st.sampled_from([n_filters, 2, 5]))
    clips = st.sampled_from([None, 0, 0.1, 0.3, 3])
    return {
        "dim": projection_dim + draw(st.sampled_from([0, 1, 4])),
        "projection_dim": projection_dim,
        "n_layers": draw(st.integers(1, 3)),
        "skip": draw(st.booleans()),
        "cell_clip": draw(clips),
        "proj_clip": draw(clips),
        "filters": filters,
        "embedding_dim": draw(st.integers(1, 4)),
        "activation": draw(st.sampled_from(["relu", "tanh"])),
        "n_highway": draw(st.integers(0, 3)),
        "max_characters": max_characters,
        "seed": draw(st.integers(0, 2**31)),
    }


def tokens():
    """Strings of any code points, lone surrogates too, and what has a meaning of its own."""
    return st.one_of(
        st.text(st.characters(codec=None), max_size=20),
        st.sampled_from(["<S>", "</S>", "<UNK>", "", "word", "x" * 49, "é" * 30, "\ud800"]),
    )


def lists_of_sentences(**sizes):
    return st.lists(st.lists(tokens(), max_size=6), **sizes)


@st.composite
def operands(draw, rows, n_in, n_out):
    """Of a product, of up to these sizes: inputs, weight, bias or None, and what is done with the sums."""
    rows, n_in, n_out = (draw(st.integers(1, most)) for most in (rows, n_in, n_out))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, n_in), (n_in, n_out), (n_out,)))
    how = draw(st.sampled_from([{}, {"activation": "relu"}, {"activation": "sigmoid"}, {"limit": 0.5}]))
    return x, weight, bias if draw(st.booleans()) else None, how


@pytest.fixture(scope="session")
def strategies():
    """Strategies for `data.draw`, since test modules cannot import this file."""
    drawn = {"architectures": architectures, "lists_of_sentences": lists_of_sentences}
    return SimpleNamespace(**drawn, operands=operands, tokens=tokens)
