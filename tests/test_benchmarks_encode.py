"""The encoding benchmark compares only equal layers, counts correctly, and can run without a missing peer."""

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

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
    """Put a file where environments would be made, so that none can be."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(modules("environments"), "ENVIRONMENTS", tmp_path / "file")


@pytest.fixture
def start(modules, data, monkeypatch):
    """Return a function that starts the sides of an encoding benchmark in this process with a tiny model, and returns
    them.

    Its arguments say how to change the layers of the plain loop, and of ours in reduced precision."""
    runner, bench, harness = modules("runner"), modules("bench"), modules("harness")
    monkeypatch.setattr(modules("cases"), "write_model", lambda size: (str(data / "tiny_2l_skip"), None))
    monkeypatch.setattr(modules("memory"), "peak", lambda *_, **__: 1.0)

    class Local:
        pid = 0

        def __init__(self, name, change, **settings):
            self.commands = runner.Encode(name)
            self.commands.load(str(data / "tiny_2l_skip"), threads=1)
            encode = self.commands.engine.encode
            is_ours = settings.get("precision") == "float32"
            self.commands.engine.encode = lambda sentences: (
                map(change, encode(sentences)) if not is_ours else encode(sentences)
            )

        def ask(self, command, **arguments):
            return getattr(self.commands, command)(**arguments)

    def run(change=lambda layers: layers, *arguments):
        monkeypatch.setattr(harness.Report, "start", lambda self, stack, role, name, **own: Local(name, change, **own))
        args = bench.parse_arguments(["encode", "--sentences=4", "--cases=single", *arguments])
        args.cases, report = ["single"], object.__new__(harness.Report)
        return dict(bench.start_sides(report, "small", args, None))

    return run


@pytest.fixture
def report(modules):
    """Make a report for a machine whose speed takes no time to measure."""
    harness = modules("harness")

    class Machine:
        def ask(self, command, **_):
            return {"torch": 1e9, "oneDNN": 2e9}

    with ExitStack() as stack:
        report = harness.Report("native", 1, stack)
        report.machine = Machine()
        yield report


@pytest.fixture
def arguments(modules, monkeypatch, data):
    """Return a function that reads a command line. Models are tiny."""
    cases = modules("cases")
    monkeypatch.setattr(cases, "load", lambda size: formats.load(data / "tiny_2l_skip"))
    monkeypatch.setattr(cases, "write_model", cases.write_model.__wrapped__)

    def parse(*arguments):
        return modules("bench").parse_arguments([*arguments, "--repeats=2", "--threads=1", "--sentences=4"])

    return parse


# The check


def test_engines_with_the_same_layers_are_compared(start):
    found = start(lambda layers: layers, "--engines=plain loop")
    assert found["spacy-elmo"].about["off by"] == 0
    assert 0 < found["plain loop"].about["off by"] < 1e-5


@pytest.mark.parametrize(
    "change",
    [lambda layers: layers + 2e-5, lambda layers: layers[:, 1:], lambda layers: layers * np.float32("nan")],
    ids=["numbers", "shape", "nan"],
)
def test_engine_with_other_layers_is_not_timed(start, change):
    with pytest.raises(SystemExit, match=r"plain loop: its layers differ from spacy-elmo's by .*; nothing timed"):
        start(change, "--engines=plain loop")


def test_reduced_precision_is_compared_by_cosine(start):
    found = start(lambda layers: layers + 0.01, "--engines=spacy-elmo", "--precisions=int8")["spacy-elmo int8"].about
    assert found["off by"] == pytest.approx(0.01, abs=1e-5)
    assert [f"layer {number}" in found for number in range(4)] == [True, True, True, False]


def test_cosine_is_that_of_each_token_mean_and_lowest(modules):
    one = np.array([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])
    other = np.array([[[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    found = modules("bench").compare("", [one], [other], is_exact=False)
    assert found == {"off by": 2.0, "layer 0": "0.902369 / 0.7071"}


# Counting


def test_operations_are_those_counted_by_hand(modules):
    """Words have 3, 3, 3 and 4 characters with their borders (BOS, EOS, a, ab), 3 tokens and 2 x 2 borders."""
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


def test_repeated_words_count_once_in_a_text(modules, data):
    options, needed = formats.load(data / "tiny_2l_skip").options, modules("cases").needed_operations
    assert needed(options, SENTENCES) < sum(needed(options, [sentence]) for sentence in SENTENCES)


def test_bytes_of_a_sentence_are_those_of_all_weights_once_and_of_the_states_in_every_step(modules):
    """Weights: 60 for highways and projection, 2 x 24 for inputs, 2 x 30 for states and their projection."""
    cnn = CharCNNOptions(((1, 2), (2, 3)), embedding_dim=4, max_characters_per_token=6, n_highway=1)
    options = BiLMOptions(LSTMOptions(3, 2, n_layers=1), cnn)
    assert modules("cases").n_weights(options) == (60, 48, 60)
    assert modules("cases").needed_bytes(options, ["a", "ab"]) == 4 * (60 + 48 + 4 * 60)


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


def test_worker_gives_what_the_model_gives(modules, report, data):
    path = data / "tiny_2l_skip"
    with ExitStack() as stack:
        with pytest.raises(modules("harness").SideError, match="load: WeightsError: no_such"):
            report.start(stack, "encode", "spacy-elmo", threads=1, directory="no_such")
        process = report.start(stack, "encode", "spacy-elmo", threads=1, directory=str(path))
        found = process.ask("encode", sentences=SENTENCES)
        assert process.ask("time", calls=[SENTENCES[:2], SENTENCES[2:]]) > 0
        peak = modules("memory").peak
        assert peak(process.pid) is None or 0 < peak(process.pid, is_from_now=True) <= peak(process.pid)
    for layers, expected in zip(found, formats.load(path).encode(SENTENCES), strict=True):
        np.testing.assert_array_equal(layers, expected)


def make_worker(modules, script):
    return modules("harness").Worker(Path(sys.executable), environment={}, script=script)


def test_worker_that_dies_is_an_error_with_its_last_words(modules, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.exit('no such thing')\n")
    with (
        make_worker(modules, script) as process,
        pytest.raises(modules("harness").SideError, match="load: the process ended with status 1: no such thing"),
    ):
        process.ask("load")


def test_what_a_side_prints_is_no_answer(modules, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom runner import serve\n"
        "class Noisy:\n    def load(self): return os.system('echo noise') or print('noise') or 'answer'\n"
        "serve(Noisy())\n"
    )
    with make_worker(modules, script) as process:
        assert [process.ask("load"), process.ask("load")] == ["answer", "answer"]


def test_warm_runs_find_their_words_and_cold_ones_none(start, monkeypatch):
    (side,), misses = start(lambda layers: layers, "--engines=spacy-elmo").values(), []
    engine = side.worker.commands.engine
    run, forward = engine.run, engine.bilm.embedder.forward
    monkeypatch.setattr(engine.bilm.embedder, "forward", lambda words: misses.append(len(words)) or forward(words))
    monkeypatch.setattr(engine, "run", lambda call: misses.append("run") or run(call))
    side.worker.ask("time", calls=[SENTENCES[:1], SENTENCES[:1]], is_cold=True)
    assert [one for one in misses if one] == ["run", 4, "run", 4]  # one, and, BOS, EOS
    misses.clear()
    side.worker.ask("time", calls=[SENTENCES[:1]], is_cold=False)
    assert misses == [4, "run"]


# Environments


@pytest.mark.usefixtures("no_environments")
def test_peer_whose_environment_cannot_be_made_is_left_out_with_a_note(report, capsys):
    assert [report.start(ExitStack(), "encode", "simple-elmo", threads=1) for _ in range(2)] == [None, None]
    (reason,) = report.left_out.values()
    assert reason.startswith("its environment cannot be made (")
    assert capsys.readouterr().err.count(f"left out: simple-elmo: {reason}") == 1


def test_environment_is_made_once_and_again_when_its_packages_change(modules, monkeypatch, tmp_path):
    environments, made = modules("environments"), []
    peers = tmp_path / "peers"
    peers.mkdir()
    monkeypatch.setattr(environments, "PEERS", peers)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")

    def run(command, **_):
        if "venv" in command:
            (tmp_path / "envs" / "some").mkdir(parents=True)
        else:
            made.append(command[len(environments.PIP) + 1 :])

    monkeypatch.setattr(environments.subprocess, "run", run)
    for requirements in ("some==1\n", "# a comment\nsome==1\n", "some==2\n", "--no-deps\nsome==2\n"):
        (peers / "some.txt").write_text(requirements)
        assert environments.python_of("some") == tmp_path / "envs" / "some" / "bin" / "python"
    assert made == [["some==1"], ["some==2"], ["--no-deps", "some==2"]]


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "peers").glob("*.txt")), ids=lambda file: file.stem)
def test_requirements_are_pinned_and_torch_comes_first_and_alone(modules, file):
    blocks = modules("environments").pip_arguments(file.stem)
    packages = [package for block in blocks for package in block if package != "--no-deps"]
    assert all(package.count("==") == 1 for package in packages)
    if any(package.startswith("torch==") for package in packages):
        assert blocks[0] == ["torch==2.13.0"]


def test_every_peer_has_an_adapter_and_requirements(modules):
    runner, bench = modules("runner"), modules("bench")
    for name in [*bench.PEERS, "minilm"]:
        module = {**runner.ENGINES, **runner.PIPELINES}[name]
        assert (BENCHMARKS / f"{module.replace('.', '/')}.py").is_file()
        assert (BENCHMARKS / "peers" / f"{name}.txt").is_file()


def test_blocks_are_installed_one_by_one_and_without_dependencies_where_they_say_so(modules, monkeypatch, tmp_path):
    monkeypatch.setattr(modules("environments"), "PEERS", tmp_path)
    (tmp_path / "x.txt").write_text("# torch\ntorch==1\n\na==1\nb==2\n\n# wrong ones\n--no-deps\nc==3\n")
    assert modules("environments").pip_arguments("x") == [["torch==1"], ["a==1", "b==2"], ["--no-deps", "c==3"]]


# The tables


@pytest.mark.usefixtures("no_environments")
def test_report_has_a_row_for_every_size_case_and_engine_that_runs(modules, report, arguments):
    engines = ("--engines", "plain loop,simple-elmo", "--precisions=float16")
    modules("bench").encode(report, arguments("encode", "--sizes=small", "--cases=stream,single,long", *engines))
    rows = report.tables["encode"]
    names = ["spacy-elmo", "spacy-elmo float16", "plain loop"]
    warm = ["spacy-elmo, warm", "spacy-elmo float16, warm"]
    assert [(row["case"], row["side"]) for row in rows] == [
        (case, name) for case in ("stream", "single", "long") for name in names + (warm if case == "single" else [])
    ]
    assert all(len(row["seconds"]) == 2 and row["tokens/s"] > 0 and row["ms"] > 0 for row in rows)
    assert [row["times"] is None for row in rows if row["case"] == "stream"] == [True, False, False]
    assert [row["peak MiB"] is None for row in rows] == [not Path("/proc/self/smaps_rollup").exists()] * 3 + [True] * 8
    assert [*report.left_out] == ["simple-elmo"]
    assert all(row["products"] == [2e9, 2e9] and row["of product"] > 0 for row in rows)


@pytest.mark.usefixtures("no_environments")
def test_pipelines_read_raw_text_to_the_end(modules, report, arguments):
    modules("bench").pipeline(report, arguments("pipeline"))
    elmo, tok2vec = report.tables["pipeline"]
    assert (elmo["side"], elmo["times"], tok2vec["side"]) == ("elmo", None, "tok2vec")
    assert elmo["tokens"] == tok2vec["tokens"] > 4
    assert tok2vec["times"] > 0


def test_threads_are_compared_on_an_idle_and_on_a_busy_machine(modules, report, arguments, monkeypatch):
    loops = []

    @contextmanager
    def busy_loops():
        loops.append("busy")
        yield
        loops.clear()

    seen = []
    worker = SimpleNamespace(ask=lambda command, calls: seen.append([*loops]) or 1.0)
    monkeypatch.setattr(modules("bench"), "busy_loops", busy_loops)
    monkeypatch.setattr(modules("harness"), "SETTLED", 0)
    monkeypatch.setattr(report, "start", lambda *_, **__: worker)
    modules("bench").threads(report, arguments("targets", "--sizes=small", "--repeats=2"))
    rows = report.tables["threads"]
    settings = ["default", "threads = 1", "threads = 2"]
    assert [(row["machine"], row["side"]) for row in rows] == [(m, s) for m in ("idle", "busy") for s in settings]
    assert [row["times"] for row in rows] == [None, 1, 1] * 2
    assert seen == [[]] * 9 + [["busy"]] * 9


def test_pretraining_is_timed_beside_the_plain_step(modules, report, monkeypatch):
    class Worker:
        def ask(self, command, **arguments):
            if command == "about":
                return ["spacy-elmo", "plain step"], 60
            return {"spacy-elmo": 1.0, "plain step": 3.0}[arguments["side"]] * arguments["steps"]

    bench = modules("bench")
    monkeypatch.setattr(report, "start", lambda *_, **__: Worker())
    bench.train(report, bench.parse_arguments(["train", "--repeats=3"]))
    ours, plain = report.tables["train"]
    assert (ours["times"], ours["tokens/s"], ours["rows"], plain["times"], plain["tokens/s"]) == (None, 60, 128, 3, 20)


# The machine


@pytest.fixture
def machine(modules):
    pytest.importorskip("spacy_elmo.bilm.packed")
    from spacy_elmo.bilm.products import _HAS

    if not all(_HAS.values()):
        pytest.skip("torch has no packed products on this processor")
    return modules("machine")


class Clock:
    """Stands in for the module timeit. Time passes only in calls of `sleep`."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    def timeit(self, way, number):
        begin = self.now
        for _ in range(number):
            way()
        return self.now - begin

    def repeat(self, way, number, repeat):
        return [self.timeit(way, number) for _ in range(repeat)]


def test_a_way_that_takes_twice_as_long_has_twice_the_seconds(machine, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(machine, "timeit", clock)
    found = machine.compare({"fast": lambda: clock.sleep(0.01), "slow": lambda: clock.sleep(0.02)}, count=3)
    assert found == {"fast": pytest.approx(0.01), "slow": pytest.approx(0.02)}


def test_machine_tells_the_speed_of_gates_products_and_memory(machine):
    assert all(taken > 0 for taken in machine.gates(rows=3, dim=16, count=1).values())
    assert set(machine.rates(8, 16, 24, count=1)) == {"torch", "oneDNN"}
    assert machine.bandwidth(2**20, count=1) > 1e8


def test_updates_of_the_gates_are_the_same(modules):
    import torch

    (gates, inputs), cell = torch.randn(2, 3, 64), torch.randn(3, 16)
    results = [update(gates.clone(), inputs, cell.clone(), 3.0) for update in modules("ours").GATE_UPDATES.values()]
    assert all((results[0] - result).abs().max() < 1e-5 for result in results)
