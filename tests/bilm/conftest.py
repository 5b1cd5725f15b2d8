"""A second implementation of the biLM: slow and plain, in float64, with torch's own operators.

Every token has full width, and time steps come one after the other. Weights have the names and layout of bilm-tf's
files. Gradients come from autograd."""

from types import SimpleNamespace

import pytest
import torch

from spacy_elmo.formats import arrays


def character_ids(token, max_characters):
    """Return the rows of `char_embed` for a token. It has no row for "no token"."""
    if token in ("<S>", "</S>"):
        inner = [256 if token == "<S>" else 257]
    else:
        inner = list(token.encode("utf8", "ignore"))[: max_characters - 2]
    ids = [258, *inner, 259]
    return ids + [260] * (max_characters - len(ids))


def embed(weights, options, token):
    """Embed one token with all windows of the full width, highways, and projection. Returns `[projection_dim]`."""
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
    """Run one layer in one direction over `x` in reading order. `clipped` counts the values that the clips cut off."""
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
    """Return the biLM's weights in the layout of the file, in float64."""
    return {name: torch.from_numpy(array).double() for name, array in arrays(bilm)}


def encode(bilm, sentence, weights=None, clipped=None):
    """Return all layers of one sentence with its boundaries, `[n_layers + 1, n_tokens + 2, 2 * projection_dim]`.

    weights: the biLM's weights, if you have them already; clipped: counts the values that the clips cut off.
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
    """Return `x @ weight + bias`, with the activation or limit applied, `[rows, n_out]`."""
    sums = x.double() @ weight.double() + (0 if bias is None else bias.double())
    if limit is not None:
        return sums.clamp(-limit, limit)
    return sums if activation is None else getattr(torch, activation)(sums)


@pytest.fixture(scope="session")
def slowly():
    """Give the second implementation: `encode`, `embed`, `product`, and `weights_of`."""
    return SimpleNamespace(encode=encode, embed=embed, product=product, weights_of=weights_of)
