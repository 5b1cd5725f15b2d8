"""The encoding benchmark compares only what gives the same layers, counts right, and does without a missing peer."""

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from spacy_elmo import formats
from spacy_elmo.bilm import BiLMOptions, CharCNNOptions, LSTMOptions

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SENTENCES = [["one", "and", "one"], ["two"], ["one", "more", "of", "them"]]


@pytest.fixture
def modules(import_benchmark):
    return import_benchmark


@pytest.fixture
def no_environments(modules, monkeypatch, tmp_path):
    """Environments would have to be made where a file is in the way."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(modules("environments"), "ENVIRONMENTS", tmp_path / "file")


@pytest.fixture
def local(modules, data):
    """A function that makes a side whose worker is in this process, given what to do to the layers that it encodes."""
    runner, bench = modules("runner"), modules("bench")

    class Local:
        def __init__(self, name, change=lambda layers: layers):
            self.commands = runner.Encode(name)
            self.commands.load(str(data / "tiny_2l_skip"), threads=1)
            encode = self.commands.engine.encode
            self.commands.engine.encode = lambda sentences: map(change, encode(sentences))

        def ask(self, command, **arguments):
            return getattr(self.commands, command)(**arguments)

    return lambda *arguments: bench.EncodeSide(Local(*arguments), {})


@pytest.fixture
def section(modules):
    """What a run finds, its machine being as fast as can be measured in no time."""

    class Machine:
        def ask(self, command, **_):
            return {"torch": 1e9, "oneDNN": 2e9}

    harness = modules("harness")
    return harness.Section(harness.Level("native", None), Machine())


@pytest.fixture
def arguments(modules, monkeypatch, data):
    """A function that reads a command line; models are tiny."""
    monkeypatch.setattr(modules("cases"), "load", lambda size: formats.load(data / "tiny_2l_skip"))

    def parse(*arguments):
        common = ("--repeats=2", "--threads=1", "--sentences=4")
        return modules("bench").parse_arguments([*arguments, *common])

    return parse


# The check


def compare(modules, sides, section, arguments):
    args = arguments("encode", "--sizes=small")
    return modules("bench").compare_sides(section, "tiny", sides, SENTENCES, "", args)


def test_engines_with_the_same_layers_are_compared(modules, local, section, arguments):
    sides = {"spacy-elmo": local("spacy-elmo"), "plain loop": local("plain loop")}
    found = compare(modules, sides, section, arguments)
    assert found["spacy-elmo"]["off by"] == 0
    assert 0 < found["plain loop"]["off by"] < 1e-5


@pytest.mark.parametrize(
    "change",
    [lambda layers: layers + 2e-5, lambda layers: layers[:, 1:], lambda layers: layers * np.float32("nan")],
    ids=["numbers", "shape", "nan"],
)
def test_engine_with_other_layers_is_not_timed(modules, local, section, arguments, change):
    sides = {"spacy-elmo": local("spacy-elmo"), "plain loop": local("plain loop", change)}
    with pytest.raises(SystemExit, match=r"spacy-elmo and plain loop differ by .*; nothing timed"):
        compare(modules, sides, section, arguments)


def test_reduced_precision_is_compared_by_cosine(modules, local, section, arguments):
    sides = {"spacy-elmo": local("spacy-elmo"), "spacy-elmo int8": local("plain loop", lambda layers: layers + 0.01)}
    found = compare(modules, sides, section, arguments)["spacy-elmo int8"]
    assert found["off by"] == pytest.approx(0.01, abs=1e-5)
    assert [f"layer {number}" in found for number in range(4)] == [True, True, True, False]


def test_cosine_is_that_of_each_token_mean_and_lowest(modules):
    one = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    other = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert modules("bench").cosine(one, other) == pytest.approx(((2 + 0.5**0.5) / 3, 0.5**0.5))


# Counting


def test_operations_are_those_counted_by_hand(modules):
    """Words of 3, 3, 3 and 4 characters with their borders: BOS, EOS, a, ab; 3 tokens and 2 x 2 borders."""
    cnn = CharCNNOptions(((1, 2), (2, 3)), embedding_dim=4, max_characters_per_token=6, n_highway=1)
    options = BiLMOptions(LSTMOptions(3, 2, n_layers=1), cnn)
    lstm = 7 * 2 * 2 * ((2 + 2) * 4 * 3 + 3 * 2)
    word = 2 * (2 * 5 * 5 + 5 * 2)
    windows = 2 * 4 * (2 * (3 + 3 + 3 + 4) + 3 * (5 + 5 + 5 + 7))
    assert modules("cases").needed_operations(options, [["a", "ab"], ["a"]]) == windows + 4 * word + lstm


def test_bytes_of_a_word_count_and_those_that_are_cut_do_not(modules):
    cnn = CharCNNOptions(((1, 2),), embedding_dim=4, max_characters_per_token=6, n_highway=1)
    needed = modules("cases").needed_operations
    options = BiLMOptions(LSTMOptions(3, 2, n_layers=1), cnn)
    assert needed(options, [["é"]]) - needed(options, [["e"]]) == 2 * 4 * 2
    assert needed(options, [["abcdefg"]]) == needed(options, [["abcd"]])


def test_repeated_words_count_once_in_a_stream_and_again_in_every_single_sentence(modules, data):
    options = formats.load(data / "tiny_2l_skip").options
    make, needed = modules("cases").Work.make, modules("cases").needed_operations
    stream = make("bundled", "stream", False, SENTENCES, options)
    single = make("bundled", "single", True, SENTENCES, options)
    assert stream.tokens == single.tokens == 8
    assert stream.operations == needed(options, SENTENCES)
    assert single.operations == sum(needed(options, [sentence]) for sentence in SENTENCES) > stream.operations


def test_slow_engines_get_a_sample_and_ours_everything(modules):
    calls_of = modules("cases").calls_of
    sentences = [[f"{number}.{word}" for word in range(20)] for number in range(2_000)]
    assert calls_of("small", "stream", True, sentences) == [sentences]
    assert len(calls_of("original", "stream", True, sentences)[0]) == 640
    batches = calls_of("small", "stream", False, sentences)
    assert [len(batch) for batch in batches] == [32] * 4
    assert [batch[0][0].partition(".")[0] for batch in batches] == ["224", "736", "1248", "1760"]
    (pieces,) = calls_of("small", "long", True, sentences)
    assert [len(piece) for piece in pieces] == [1_000] * 20
    assert calls_of("small", "long", False, sentences) == [[[*pieces[0], *pieces[1]]]]
    assert calls_of("small", "pieces", True, sentences) == [pieces]
    assert calls_of("small", "pieces", False, sentences) == [[piece[:200] for piece in pieces]]
    assert calls_of("small", "single", True, sentences) == calls_of("small", "single", False, sentences)


# Workers


def test_worker_gives_what_the_model_gives(modules, section, data, tmp_path):
    path, file = data / "tiny_2l_skip", tmp_path / "layers.npz"
    with ExitStack() as stack:
        process = section.start(stack, "encode", "spacy-elmo", threads=1)
        with pytest.raises(modules("harness").WorkerError, match="encode: RuntimeError: no model is loaded"):
            process.ask("encode", sentences=SENTENCES, to=str(file))
        assert set(process.ask("load", directory=str(path))) == {"spacy-elmo", "torch"}
        process.ask("encode", sentences=SENTENCES, to=str(file))
        assert len(process.ask("time", calls=[SENTENCES[:2], SENTENCES[2:]], cold=True)) == 2
        assert 0 < process.ask("reset_peak") <= process.ask("peak")
    with np.load(file) as found:
        for number, layers in enumerate(formats.load(path).encode(SENTENCES)):
            np.testing.assert_array_equal(found[str(number)], layers)


def make_worker(modules, script):
    return modules("harness").Worker(Path(sys.executable), environment={}, script=script)


def test_worker_that_dies_is_an_error_with_its_last_words(modules, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.exit('no such thing')\n")
    with (
        make_worker(modules, script) as process,
        pytest.raises(modules("harness").WorkerError, match="load: the process ended with status 1: no such thing"),
    ):
        process.ask("load")


def test_what_a_side_prints_is_no_answer(modules, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom runner import Side, serve\n"
        "class Noisy(Side):\n    def load(self): return os.system('echo noise') or print('noise') or 'answer'\n"
        "serve(Noisy())\n"
    )
    with make_worker(modules, script) as process:
        assert [process.ask("load"), process.ask("load")] == ["answer", "answer"]


def test_warm_runs_find_their_words_and_cold_ones_none(local, monkeypatch):
    worker, misses = local("spacy-elmo").worker, []
    embedder = worker.commands.engine.bilm.embedder
    forward = embedder.forward
    monkeypatch.setattr(embedder, "forward", lambda words: misses.append(len(words)) or forward(words))
    worker.ask("time", calls=[SENTENCES[:1], SENTENCES[:1]], cold=True)
    assert misses == [4, 4]  # one, and, BOS, EOS
    worker.ask("time", calls=[SENTENCES[:1]], cold=False)
    assert misses == [4, 4]


# Environments


@pytest.mark.usefixtures("no_environments")
def test_peer_whose_environment_cannot_be_made_is_left_out_with_a_note(section, capsys):
    assert [section.pythons(["simple-elmo"]) for _ in range(2)] == [{}, {}]
    (reason,) = section.left_out
    assert reason.startswith("simple-elmo: its environment cannot be made (")
    assert f"left out: {reason}" in capsys.readouterr().err


def test_environment_is_made_once_and_again_when_its_packages_change(modules, monkeypatch, tmp_path):
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
    for requirements in ("some==1\n", "# a comment\nsome==1\n", "some==2\n", "# --no-deps\nsome==2\n"):
        (peers / "some.txt").write_text(requirements)
        assert environments.python_of("some") == tmp_path / "envs" / "some" / "bin" / "python"
    assert made == ["some==1\n", "some==2\n", "# --no-deps\nsome==2\n"]


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "peers").glob("*.txt")), ids=lambda file: file.stem)
def test_requirements_are_pinned_and_torch_comes_first_and_alone(modules, file):
    blocks = list(modules("environments").pip_arguments(file.read_text(encoding="utf-8")))
    packages = [package for block in blocks for package in block if package != "--no-deps"]
    assert all(package.count("==") == 1 for package in packages)
    if any(package.startswith("torch==") for package in packages):
        assert blocks[0] == ["torch==2.13.0"]


def test_every_peer_has_an_adapter_and_requirements(modules):
    runner, bench = modules("runner"), modules("bench")
    for name in [*bench.PEERS, bench.SLOW]:
        module = {**runner.ENGINES, **runner.PIPELINES}[name]
        assert (BENCHMARKS / f"{module.replace('.', '/')}.py").is_file()
        assert (BENCHMARKS / "peers" / f"{name}.txt").is_file()


def test_blocks_are_installed_one_by_one_and_without_dependencies_where_they_say_so(modules):
    text = "# torch\ntorch==1\n\na==1\nb==2\n\n# --no-deps: wrong ones\nc==3\n"
    assert list(modules("environments").pip_arguments(text)) == [["torch==1"], ["a==1", "b==2"], ["--no-deps", "c==3"]]


# The tables


@pytest.mark.usefixtures("no_environments")
def test_report_has_a_row_for_every_size_case_and_engine_that_runs(modules, section, arguments):
    engines = ("--engines", "plain loop,simple-elmo", "--precisions=float32,float16")
    modules("bench").encode(section, arguments("encode", "--sizes=small", "--cases=stream,single,long", *engines))
    rows = section.tables["encode"]
    names = ["spacy-elmo", "spacy-elmo float16", "plain loop"]
    assert [(row["case"], row["engine"]) for row in rows] == [
        (case, name) for case in ("stream", "single", "long") for name in names
    ]
    assert all(len(row["seconds"]) == 2 and row["tokens/s"] > 0 for row in rows)
    assert [row["times"] is None for row in rows] == [True, False, False] * 3
    assert [row["ms"] is None for row in rows] == [True] * 3 + [False] * 3 + [True] * 3
    assert [row["warm ms"] is None for row in rows] == [True] * 3 + [False, False, True] + [True] * 3
    assert [row["peak MiB"] is None for row in rows] == [False] * 3 + [True] * 6
    assert section.left_out[0].startswith("simple-elmo: ")
    assert len(section.products) == 6


def test_pipelines_read_raw_text_to_the_end(modules, section, arguments):
    args = arguments("pipeline", "--pipelines=tok2vec")
    modules("bench").pipeline(section, args)
    elmo, tok2vec = section.tables["pipeline"]
    assert (elmo["pipeline"], elmo["times"], elmo["texts"]) == ("elmo", None, 4)
    assert elmo["words"] == tok2vec["words"] > 4
    assert tok2vec["times"] > 0


def test_threads_are_compared_on_an_idle_and_on_a_busy_machine(modules, section, arguments, monkeypatch):
    class Here(modules("runner").Encode):  # in this process
        def ask(self, command, **arguments):
            return getattr(self, command)(**arguments)

    def load(stack, label, command, engine, **settings):
        worker = Here(engine)
        worker.load(**settings)
        return worker

    monkeypatch.setattr(section, "load", load)
    used = []
    busy = modules("bench").busy_loops
    monkeypatch.setattr(modules("bench"), "busy_loops", lambda: used.append(busy) or ExitStack())
    modules("bench").threads(section, arguments("targets", "--sizes=small"))
    rows = section.tables["threads"]
    settings = ["default", "threads = 1", "threads = 2"]
    assert [(row["machine"], row["setting"]) for row in rows] == [(m, s) for m in ("idle", "busy") for s in settings]
    assert [row["default over it"] is None for row in rows] == [True, False, False] * 2
    assert used == [busy]


def test_pretraining_is_timed_beside_the_plain_step(modules, section, monkeypatch):
    class Worker:
        def ask(self, command, **arguments):
            if command == "about":
                return {"tokens": 60, "distinct words": 40.0, "sides": ["spacy-elmo", "plain step"]}
            return {"spacy-elmo": 1.0, "plain step": 3.0}[arguments["side"]] * arguments["steps"]

    bench = modules("bench")
    monkeypatch.setattr(section, "load", lambda *_, **__: Worker())
    bench.train(section, bench.parse_arguments(["train", "--steps=2", "--repeats=3"]))
    ours, plain = section.tables["train"]
    assert (ours["times"], ours["tokens/s"], ours["rows"], plain["times"], plain["tokens/s"]) == (3, 60, 128, None, 20)


# The machine


@pytest.fixture
def machine(modules):
    pytest.importorskip("spacy_elmo.bilm.packed")
    from spacy_elmo.bilm.products import _HAS

    if not all(_HAS.values()):
        pytest.skip("torch has no packed products on this processor")
    return modules("machine")


def test_all_ways_do_the_same_product(machine):
    import torch

    with torch.inference_mode():
        ways = machine.make_ways(torch.randn(1, 2, 8, 24))(3)
        results = {name: way()[0] for name, way in ways.items()}
    results["weights on the left"] = [one.t() for one in results["weights on the left"]]
    for name, result in results.items():
        both = result if isinstance(result, torch.Tensor) else torch.stack(list(result))
        assert (both - results["torch, in place"]).abs().max() < (0.02 if "float16" in name else 1e-5), name


def test_a_way_that_takes_twice_as_long_has_twice_the_seconds(machine):
    import time

    found = machine.compare({"fast": lambda: time.sleep(0.01), "slow": lambda: time.sleep(0.02)}, repeats=3)
    assert found["slow"] / found["fast"] == pytest.approx(2, rel=0.3)


def test_compiled_gates_are_those_of_the_operators(machine):
    found = machine.gates(rows=3, dim=16, repeats=1)
    assert found is None or (found["compiled"] > 0 and found["torch"] > 0)
    assert set(machine.rates(count=1)) == {"2048 product, torch", "2048 product, oneDNN"}
