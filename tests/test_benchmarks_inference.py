"""The inference benchmark compares only what gives the same layers, counts right, and does without a missing peer."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from spacy_elmo import formats
from spacy_elmo.bilm import BiLMOptions, CharCNNOptions, LSTMOptions

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SENTENCES = [["one", "and", "one"], ["two"], ["one", "more", "of", "them"]]


@pytest.fixture
def modules(import_benchmark, monkeypatch):
    """A function that imports a benchmark, in which the machine's speed is quickly measured."""
    monkeypatch.setattr("common.SGEMM_SIZE", 64)
    return import_benchmark


@pytest.fixture
def no_environments(modules, monkeypatch, tmp_path):
    """Environments would have to be made where a file is in the way."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(modules("environments"), "ENVIRONMENTS", tmp_path / "file")


@pytest.fixture
def local(modules, data):
    """A function that makes a worker of this process, given what to do to the layers that it encodes."""
    engines = modules("engines")

    class Local:
        def __init__(self, name, change=lambda layers: layers):
            self.commands = engines.Commands(name, threads=1)
            self.commands.load(str(data / "tiny_2l_skip"))
            encode = self.commands.engine.encode
            self.commands.engine.encode = lambda sentences: map(change, encode(sentences))

        def ask(self, command, **arguments):
            return getattr(self.commands, command)(**arguments)

    return Local


# The check


def test_engines_with_the_same_layers_are_compared(modules, local):
    workers = {"spacy-elmo": local("spacy-elmo"), "plain loop": local("plain loop")}
    modules("inference").check("tiny", workers, SENTENCES)


@pytest.mark.parametrize(
    "change",
    [lambda layers: layers + 2e-5, lambda layers: layers[:, 1:], lambda layers: layers * np.float32("nan")],
    ids=["numbers", "shape", "nan"],
)
def test_engine_with_other_layers_is_not_timed(modules, local, change):
    workers = {"spacy-elmo": local("spacy-elmo"), "plain loop": local("plain loop", change)}
    with pytest.raises(SystemExit, match=r"spacy-elmo and plain loop differ by .*; nothing timed"):
        modules("inference").check("tiny", workers, SENTENCES)


# Counting


def test_operations_are_those_counted_by_hand(modules):
    """Words of 3, 3, 3 and 4 characters with their borders: BOS, EOS, a, ab; 3 tokens and 2 x 2 borders."""
    operations = modules("operations")
    cnn = CharCNNOptions(((1, 2), (2, 3)), embedding_dim=4, max_characters_per_token=6, n_highway=1)
    options = BiLMOptions(LSTMOptions(3, 2, n_layers=1), cnn)
    lstm = 7 * 2 * 2 * ((2 + 2) * 4 * 3 + 3 * 2)
    word = 2 * (2 * 5 * 5 + 5 * 2)
    needed_windows = 2 * 4 * (2 * (3 + 3 + 3 + 4) + 3 * (5 + 5 + 5 + 7))
    all_windows = 2 * 4 * (2 * 6 + 3 * 2 * 5)
    sentences = [["a", "ab"], ["a"]]
    assert operations.needed_operations(options, sentences) == needed_windows + 4 * word + lstm
    assert operations.nominal_operations(options, sentences) == 7 * (all_windows + word) + lstm


def test_repeated_words_count_once_in_a_stream_and_again_in_every_single_sentence(modules, data):
    options = formats.load(data / "tiny_2l_skip").options
    make, needed = modules("workloads").Work.make, modules("operations").needed_operations
    stream = make("bundled", "stream", "allennlp", SENTENCES, options)
    single = make("bundled", "single", "spacy-elmo", SENTENCES, options)
    assert stream.tokens == single.tokens == 8
    assert stream.needed == needed(options, SENTENCES)
    assert single.needed == sum(needed(options, [sentence]) for sentence in SENTENCES) > stream.needed


def test_slow_engines_get_a_sample_and_ours_everything(modules):
    workloads = modules("workloads")
    sentences = [[f"{number}.{word}" for word in range(20)] for number in range(2_000)]
    assert workloads.stream_calls("small", "spacy-elmo", sentences) == [sentences]
    batches = workloads.stream_calls("small", "allennlp", sentences)
    assert [len(batch) for batch in batches] == [32] * 5
    assert [batch[0][0].partition(".")[0] for batch in batches] == ["192", "576", "992", "1408", "1792"]
    (pieces,) = workloads.long_calls("small", "spacy-elmo", sentences)
    assert [len(piece) for piece in pieces] == [1_000] * 20
    assert workloads.long_calls("small", "allennlp", sentences) == [[[*pieces[0], *pieces[1]]]]
    assert workloads.pieces_calls("small", "spacy-elmo", sentences) == [pieces]
    assert workloads.pieces_calls("small", "allennlp", sentences) == [[piece[:200] for piece in pieces]]


# Workers


def test_worker_gives_what_the_model_gives(modules, data, tmp_path):
    worker = modules("worker")
    path, file = data / "tiny_2l_skip", tmp_path / "layers.npz"
    with worker.Worker(Path(sys.executable), BENCHMARKS / "engines.py", "spacy-elmo", threads=1) as process:
        with pytest.raises(worker.WorkerError, match="encode: RuntimeError: no model is loaded"):
            process.ask("encode", sentences=SENTENCES, to=str(file))
        assert set(process.ask("load", directory=str(path))) == {"spacy-elmo", "torch"}
        process.ask("encode", sentences=SENTENCES, to=str(file))
        assert len(process.ask("time", calls=[SENTENCES[:2], SENTENCES[2:]], cold=True)) == 2
        assert 0 < process.ask("reset_peak") <= process.ask("peak")
    with np.load(file) as found:
        for number, layers in enumerate(formats.load(path).encode(SENTENCES)):
            np.testing.assert_array_equal(found[str(number)], layers)


def test_worker_that_dies_is_an_error_with_its_last_words(modules, tmp_path):
    worker, script = modules("worker"), tmp_path / "script.py"
    script.write_text("import sys\nsys.exit('no such thing')\n")
    with (
        worker.Worker(Path(sys.executable), script, threads=1) as process,
        pytest.raises(worker.WorkerError, match="load: the process ended with status 1: no such thing"),
    ):
        process.ask("load")


def test_what_an_engine_prints_is_no_answer(modules, tmp_path):
    worker, script = modules("worker"), tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom worker import serve\n"
        "serve({'load': lambda: os.system('echo noise') or print('noise') or 'answer'})\n"
    )
    with worker.Worker(Path(sys.executable), script, threads=1) as process:
        assert [process.ask("load"), process.ask("load")] == ["answer", "answer"]


def test_warm_runs_find_their_words_and_cold_ones_none(local, monkeypatch):
    worker, misses = local("spacy-elmo"), []
    embedder = worker.commands.engine.bilm.embedder
    forward = embedder.forward
    monkeypatch.setattr(embedder, "forward", lambda words: misses.append(len(words)) or forward(words))
    worker.ask("time", calls=[SENTENCES[:1], SENTENCES[:1]], cold=True)
    assert misses == [4, 4]  # one, and, BOS, EOS
    worker.ask("time", calls=[SENTENCES[:1]], cold=False)
    assert misses == [4, 4]


# Environments


@pytest.mark.usefixtures("no_environments")
def test_peer_whose_environment_cannot_be_made_is_left_out_with_a_note(modules, capsys):
    pythons, left_out = modules("environments").find_pythons(["simple-elmo"])
    assert pythons == {}
    assert left_out[0].startswith("simple-elmo: its environment cannot be made (")
    assert f"left out: {left_out[0]}" in capsys.readouterr().err


def test_environment_is_made_once_and_again_when_its_requirements_change(modules, monkeypatch, tmp_path):
    environments, made = modules("environments"), []
    peers = tmp_path / "peers"
    peers.mkdir()
    monkeypatch.setattr(environments, "PEERS", peers)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")

    def make(directory, requirements):
        made.append(requirements)
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        (directory / "bin" / "python").touch()

    monkeypatch.setattr(environments, "make", make)
    for requirements in ("some==1\n", "some==1\n", "some==2\n"):
        (peers / "some.txt").write_text(requirements)
        assert environments.python_of("some") == tmp_path / "envs" / "some" / "bin" / "python"
    assert made == ["some==1\n", "some==2\n"]


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "peers").glob("*.txt")), ids=lambda file: file.stem)
def test_requirements_are_pinned_and_torch_comes_first_and_alone(modules, file):
    blocks = list(modules("environments").pip_arguments(file.read_text(encoding="utf-8")))
    packages = [package for block in blocks for package in block if package != "--no-deps"]
    assert all(package.count("==") == 1 for package in packages)
    if any(package.startswith("torch==") for package in packages):
        assert blocks[0] == ["torch==2.13.0"]


def test_blocks_are_installed_one_by_one_and_without_dependencies_where_they_say_so(modules):
    text = "# torch\ntorch==1\n\na==1\nb==2\n\n# --no-deps: wrong ones\nc==3\n"
    assert list(modules("environments").pip_arguments(text)) == [["torch==1"], ["a==1", "b==2"], ["--no-deps", "c==3"]]


# The table


@pytest.mark.usefixtures("no_environments")
def test_report_has_a_row_for_every_size_shape_and_engine_that_runs(modules, monkeypatch, data):
    inference = modules("inference")
    monkeypatch.setattr(inference, "load", lambda size: formats.load(data / "tiny_2l_skip"))
    engines = ["plain loop", "simple-elmo"]
    args = argparse.Namespace(
        sizes=["small"], shapes=["stream", "single", "long"], engines=engines, repeats=2, threads=1, sentences=4
    )
    report = inference.run(args)
    rows = [(row["shape"], row["engine"], row["calls"], len(row["seconds"])) for row in report["rows"]]
    assert rows == [
        ("stream", "spacy-elmo", 1, 2),
        ("stream", "plain loop", 1, 2),
        ("single", "spacy-elmo", 4, 2),
        ("single", "plain loop", 4, 2),
        ("long", "spacy-elmo", 1, 2),
        ("long", "plain loop", 1, 2),
    ]
    assert [row["ratio"] is None for row in report["rows"]] == [True, False] * 3
    assert [row["peak_memory"] is None for row in report["rows"]] == [False, False, True, True, False, True]
    assert [target["name"] for target in report["targets"]] == ["small, long: GB of memory over the model"]
    assert report["left_out"][0].startswith("simple-elmo: ")
    table = inference.render(report)
    assert "left out: simple-elmo: " in table
    assert sum(line.startswith("small ") for line in table.splitlines()) == 6


def test_targets_name_the_best_peer_and_leave_the_plain_loop_aside(modules):
    table = modules("inference_table")

    def row(engine, ratio, peak, size="small", shape="single"):
        return table.Row(size, shape, engine, 1, 1, [1.0], 1.0, 0.79, 1.0, ratio=ratio, peak_memory=peak)

    rows = [row("spacy-elmo", None, 300), row("plain loop", 1.1, 1), row("simple-elmo", 1.9, 400)]
    rows += [row("allennlp", 2.5, 300), row("spacy-elmo", None, None, "original", "stream")]
    rows += [row("allennlp", 3.0, None, "original", "stream")]
    found = {
        target.name: (round(target.reached, 2), target.met) for target in modules("inference_targets").targets(rows)
    }
    assert found == {
        "small, single: times the speed of the best peer (simple-elmo)": (1.9, True),
        "small, single: time over the best peer's (simple-elmo)": (0.53, False),
        "small, single: peak memory over the best peer's (allennlp)": (1.0, False),
        "original, stream: share of the SGEMM rate": (0.79, False),
        "original, stream: times the speed of the best peer (allennlp)": (3.0, True),
        "original, stream: times the speed of AllenNLP's code (allennlp)": (3.0, True),
    }
