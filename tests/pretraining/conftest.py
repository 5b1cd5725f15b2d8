"""A corpus that a tiny biLM can learn, settings for it, and a second, slow implementation of the objective.
That one takes every token at full width, one row and one time step after the other, with gradients from autograd."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining.config import (
    Config,
    CorpusConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from spacy_elmo.pretraining.corpus import encode
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.pretraining.trainer import Trainer
from spacy_elmo.pretraining.vocabulary import Vocabulary

TINY = Config(
    ModelConfig(
        dim=10,
        projection_dim=6,
        filters=((1, 4), (2, 6)),
        embedding_dim=4,
        max_characters_per_token=12,
    ),
    CorpusConfig(min_count=1),
    TrainingConfig(n_epochs=2.0, batch_size=4, unroll_steps=5, n_negative_samples_batch=12, device="cpu"),
    OptimizerConfig(),
    LoggingConfig(log_every=5),
)


def tiny(**changed):
    """Return the tiny config with changes, each as `section__key=value`."""
    config = TINY
    for name, value in changed.items():
        section, key = name.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return config


def predictable_text(n_sentences=120, seed=0, n_words=24, document=8):
    """Return sentences in which a word nearly always follows from the one before, in documents of 8 sentences."""
    pick = random.Random(seed)
    lines = []
    for number in range(n_sentences):
        if number and number % document == 0:
            lines.append("")
        word = pick.randrange(3)
        sentence = []
        for _ in range(pick.randint(3, 9)):
            sentence.append(f"w{word:02}")
            word = (word + 7) % n_words if pick.random() < 0.95 else pick.randrange(n_words)
        lines.append(" ".join(sentence))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def tiny_config():
    """Return a function that makes a config of a tiny run. Arguments are `section__key=value`."""
    return tiny


@pytest.fixture(scope="session")
def text():
    """Return a function that makes text that a tiny biLM can learn to predict."""
    return predictable_text


@pytest.fixture
def corpus_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(predictable_text())
    return path


@pytest.fixture
def prepared(tmp_path):
    """Write a corpus in the layout of `prepare`."""
    root = tmp_path / "prepared"
    for name, seed in (("train", 0), ("heldout", 1)):
        (root / name).mkdir(parents=True)
        (root / name / "a.txt").write_text(predictable_text(60, seed=seed))
    (root / "train" / "b.txt").write_text(predictable_text(60, seed=2))
    words = sorted({word for seed in (0, 1, 2) for word in predictable_text(60, seed=seed).split()})
    (root / "vocab.txt").write_text("".join(word + "\n" for word in ("<S>", "</S>", "<UNK>", *words)))
    return root


@pytest.fixture
def train(tmp_path, corpus_file):
    """Return a function that trains in `tmp_path / name` and returns that directory. `section__key=value` change the
    config."""

    def run(name="out", corpus=None, resume=False, init_from=None, **changed):
        out = tmp_path / name
        pretrain(corpus or corpus_file, out, tiny(**changed), resume=resume, init_from=init_from, show_progress=False)
        return out

    return run


@pytest.fixture
def make_corpus(tmp_path):
    """Return a function that encodes text, with the vocabulary of the text or another one."""

    def make(content, vocabulary=None, max_characters=12, name="corpus"):
        path = tmp_path / f"{name}.txt"
        path.write_text(content, encoding="utf-8", newline="")
        if vocabulary is None:
            vocabulary = Vocabulary(["<S>", "</S>", "<UNK>", *sorted(set(content.split()) - {"<S>", "</S>", "<UNK>"})])
        return encode([path], vocabulary, max_characters, tmp_path / name)

    return make


def read_metrics(out, name="metrics.jsonl"):
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def losses(out):
    """Return the step and loss of each line of the log."""
    return [(line["step"], line["loss"]) for line in read_metrics(out)]


@pytest.fixture(scope="session")
def log():
    """Give readers of a run's log: `lines(out)`, `losses(out)`."""
    return SimpleNamespace(lines=read_metrics, losses=losses)


@pytest.fixture
def command():
    """Return a function that starts `python -m spacy_elmo.pretraining` with these arguments (or another program) and
    waits for its end. With `wait=False`, it returns the running process."""
    started = []

    def start(*arguments, wait=True, program=("-m", "spacy_elmo.pretraining")):
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        if not wait:
            return process
        out, err = process.communicate(timeout=300)
        return SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def random_model(vocabulary_size=20, seed=0, dropout=0.0, scale=1.0, **model):
    """Return a tiny language model (changes by name) with random weights and biases."""
    options = replace(TINY.model, **model).options()
    bilm = BiLM(options, seed=None)
    lm = LanguageModel(bilm, Softmax(vocabulary_size, options.lstm.projection_dim, seed=None), dropout).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.parameters():
            fan_in = parameter.shape[-2] if parameter.dim() > 1 else 4
            parameter.normal_(std=scale * 1.5 * fan_in**-0.5, generator=generator)
    return lm.eval()


@pytest.fixture(scope="session")
def make_model():
    """Return a function that makes a float64 language model with random weights."""
    return random_model


def slow_embedding(lm, ids):
    """Embed one word from its padded character ids: `[projection_dim]`."""
    embedder, options = lm.bilm.embedder, lm.bilm.options.char_cnn
    x = embedder.embedding[torch.as_tensor(np.asarray(ids, dtype=np.int64))]
    pooled = []
    for (size, _), weight, bias in zip(options.filters, embedder.filters, embedder.biases, strict=True):
        windows = [x[start : start + size].reshape(-1) @ weight + bias for start in range(len(x) - size + 1)]
        pooled.append(torch.stack(windows).amax(0))
    y = torch.cat(pooled)
    y = torch.relu(y) if options.activation == "relu" else torch.tanh(y)
    for highway in embedder.highways:
        carry = torch.sigmoid(y @ highway.carry_weight + highway.carry_bias)
        y = carry * torch.relu(y @ highway.transform_weight + highway.transform_bias) + (1 - carry) * y
    return y if embedder.projection is None else y @ embedder.projection.weight + embedder.projection.bias


def slow_step(lm, layer, direction, x, hidden, cell):
    """Run one time step of one row. Returns the new hidden and cell."""
    options, parameters = lm.bilm.options.lstm, lm.bilm.layers[layer]
    gates = torch.cat([x, hidden]) @ parameters.weight[direction] + parameters.bias[direction]
    enter, forget, leave, candidate = gates.chunk(4)
    cell = torch.sigmoid(forget + 1) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
    if options.cell_clip is not None:
        cell = cell.clamp(-options.cell_clip, options.cell_clip)
    hidden = torch.sigmoid(leave) * torch.tanh(cell)
    if parameters.projection is not None:
        hidden = hidden @ parameters.projection[direction]
        if options.proj_clip is not None:
            hidden = hidden.clamp(-options.proj_clip, options.proj_clip)
    return hidden, cell


def slow_loss(lm, batch, characters, states=None):
    """Return the loss of the full softmax, as a mean over directions, rows and steps, and the states at the end."""
    options = lm.bilm.options.lstm
    _, rows, steps = batch.words.shape
    if states is None:
        zeros = torch.zeros(2, rows, options.projection_dim).double(), torch.zeros(2, rows, options.dim).double()
        states = [zeros] * options.n_layers
    total = torch.zeros(()).double()
    finals = [(hidden.clone(), cell.clone()) for hidden, cell in states]
    for direction in (0, 1):
        for row in range(rows):
            state = [(hidden[direction, row], cell[direction, row]) for hidden, cell in states]
            for step in range(steps):
                if batch.starts[row, step]:
                    state = [(torch.zeros_like(hidden), torch.zeros_like(cell)) for hidden, cell in state]
                x = slow_embedding(lm, characters[batch.words[direction, row, step]])
                for layer in range(options.n_layers):
                    state[layer] = slow_step(lm, layer, direction, x, *state[layer])
                    x = state[layer][0] + x if layer and options.use_skip_connections else state[layer][0]
                logits = lm.softmax.weight @ x + lm.softmax.bias
                total = total + torch.logsumexp(logits, 0) - logits[batch.targets[direction, row, step]]
            for layer in range(options.n_layers):
                for part in (0, 1):
                    finals[layer][part][direction, row] = state[layer][part].detach()
    return total / (2 * rows * steps), finals


@pytest.fixture(scope="session")
def slowly():
    """Give the second implementation: `loss(lm, batch, characters, states)` and `embedding(lm, ids)`."""
    return SimpleNamespace(loss=slow_loss, embedding=slow_embedding)


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that calls another at the end of the step with this number, in whichever trainer reaches it."""

    def arrange(number, act):
        original = Trainer._take_step

        def take_step(trainer):
            batch = original(trainer)
            if trainer.steps.step == number:
                act(trainer)
            return batch

        monkeypatch.setattr(Trainer, "_take_step", take_step)
        return lambda: monkeypatch.setattr(Trainer, "_take_step", original)

    return arrange
