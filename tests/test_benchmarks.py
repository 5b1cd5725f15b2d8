"""The harness of the benchmarks refuses what it cannot do before it measures, takes turns, and tables what it found."""

import argparse
import json
import os
import sys

import pytest

FLAGS = "fpu avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.fixture
def harness(import_benchmark):
    return import_benchmark("harness")


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("bench")


@pytest.fixture
def processor(harness, monkeypatch):
    """A function that gives this machine another processor."""

    def set_flags(flags):
        monkeypatch.setattr(harness, "_cpuinfo", lambda name: flags if name == "flags" else "a processor")

    return set_flags


# Levels


def test_all_levels_of_a_processor_are_its_best_and_those_below_it(harness, processor):
    processor(FLAGS)
    found = [(level.name, level.column, level.about) for level in harness.find_levels("all")]
    assert found == [("avx512", "avx512", "native"), ("avx2", "avx2", "forced, the processor has avx512")]
    processor("fpu avx2 fma")
    assert [(level.name, level.about) for level in harness.find_levels("all")] == [("avx2", "native")]


def test_native_sets_nothing_and_has_the_targets_of_the_best_level(harness, processor):
    processor(FLAGS)
    (level,) = harness.find_levels("native")
    assert (level.environment, level.column, level.about) == ({}, "avx512", "native")


def test_level_that_the_processor_lacks_is_refused_with_one_line(bench, processor, capsys):
    processor("fpu avx2 fma")
    with pytest.raises(SystemExit):
        bench.parse_arguments(["encode", "--level", "avx512"])
    assert "no level 'avx512' on this processor; expected avx2, native" in capsys.readouterr().err.splitlines()[-1]


def test_processor_of_another_kind_has_no_level_but_its_own(harness, processor):
    processor("")
    assert [(level.name, level.column) for level in harness.find_levels("all")] == [("native", None)]


def test_every_process_has_the_variables_of_the_level_and_no_others_of_that_kind(harness, monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(harness.RUNNER.parent)!r})\nfrom runner import serve, Side\n"
        "class Look(Side):\n    def look(self): return dict(os.environ)\nserve(Look())\n"
    )
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    wanted = harness.Level("avx2", "avx512").environment
    with harness.Worker(harness.Path(sys.executable), environment=wanted, script=script) as worker:
        found = worker.ask("look")
    assert wanted.items() <= found.items()
    assert found["ATEN_CPU_CAPABILITY"] == "avx2"
    assert found["HOME"] == os.environ["HOME"]
    assert "OMP_WAIT_POLICY" not in found


# Refusals


@pytest.mark.parametrize("command", ["targets", "encode", "pipeline", "processes", "train", "products"])
def test_report_that_cannot_be_written_is_refused_before_anything_is_measured(bench, command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.parse_arguments([command, "--json", str(tmp_path / "none" / "report.json")])
    assert f"no such directory: {tmp_path / 'none'}" in capsys.readouterr().err


def test_unknown_names_and_numbers_below_one_are_refused(bench, capsys):
    for option in (["--sizes", "small,huge"], ["--repeats", "0"], ["--engines", "elmo"]):
        with pytest.raises(SystemExit):
            bench.parse_arguments(["encode", *option])
    errors = capsys.readouterr().err
    assert "unknown: 'huge'; expected original, small, bundled" in errors
    assert "expected at least 1, got 0" in errors


def test_commands_have_the_options_of_others_at_their_defaults(bench):
    args = bench.parse_arguments(["targets", "--sizes", "small"])
    assert (args.sizes, args.cases, args.device, args.models) == (["small"], ["stream", "single"], "cpu", ["sm"])
    assert (args.train_rows, args.steps) == (None, None)
    assert bench.parse_arguments(["processes"]).threads == 1


# Turns, tables, reports


def test_sides_run_once_and_then_in_turn(harness):
    calls = []
    sides = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    found = harness.take_turns("", sides, 2, before=lambda: calls.append("-"))
    assert calls == ["a", "b", "-", "a", "b", "-", "a", "b"]
    assert found == {"a": [4, 7], "b": [5, 8]}


def test_ratio_is_the_median_over_repetitions(harness):
    assert harness.ratio([1.0, 6.0, 9.0], [1.0, 2.0, 1.0]) == 3.0


def test_table_has_a_column_for_each_name_and_no_lists(harness):
    rows = [
        {"engine": "ours", "tokens/s": 22_081.4, "times": None, "seconds": [1.0]},
        {"engine": "theirs", "tokens/s": 9.123, "times": 2.4201, "off by": 3.14e-7, "seconds": [1.0]},
    ]
    assert list(harness.render_table(rows)) == [
        "engine  tokens/s  times   off by",
        "ours      22,081      -        -",
        "theirs      9.12   2.42  3.1e-07",
    ]


def test_report_names_processor_level_and_products_and_keeps_every_repetition(harness, monkeypatch, tmp_path, capsys):
    class Machine:
        def __init__(self, *_, environment):
            self.environment = environment

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, command, **_):
            return {"describe": {"torch": "2"}, "rates": {"torch": 2e11, "oneDNN": 4e11}}.get(command)

    def measure(section, args):
        section.measure_products()
        section.tables["encode"] = [{"size": "small", "seconds": [1.0, 2.0]}]
        section.leave_out("a peer: no room")

    monkeypatch.setattr(harness, "Worker", Machine)
    file = tmp_path / "report.json"
    levels = [harness.Level("avx512", "avx512"), harness.Level("avx2", "avx512")]
    harness.run_levels(measure, argparse.Namespace(command="encode", level=levels, threads=1, json=file))
    text, report = capsys.readouterr().out, json.loads(file.read_text())
    assert "oneDNN: 400 GFLOP/s (400 to 400)" in text
    assert "left out: a peer: no room" in text
    assert [one["level"]["about"] for one in report["levels"]] == ["native", "forced, the processor has avx512"]
    assert report["levels"][1]["level"]["environment"]["SPACY_ELMO_ISA"] == "avx2"
    assert report["levels"][0]["machine"]["processor"] == harness.cpu_name()
    assert report["levels"][0]["tables"]["encode"][0]["seconds"] == [1.0, 2.0]
    assert report["arguments"]["command"] == "encode"


# Targets


def encode_row(engine, size="small", case="single", times=None, **others):
    return {"engine": engine, "size": size, "case": case, "times": times, "of product": 0.6, "peak MiB": None, **others}


@pytest.fixture
def reached(import_benchmark):
    """A function that gives what is reached, and whether it is met, by target."""

    def find(tables, level):
        return {
            row["target"]: (round(row["reached"], 2), row[""])
            for row in import_benchmark("targets").targets(tables, level)
        }

    return find


def test_targets_name_the_best_peer_and_leave_the_plain_loop_aside(reached):
    rows = [encode_row("spacy-elmo"), encode_row("plain loop", times=1.1), encode_row("simple-elmo", times=2.0)]
    rows += [encode_row("allennlp", times=2.6), encode_row("spacy-elmo int8", times=0.5)]
    (found,) = reached({"encode": rows}, "avx512").items()
    assert found == ("small, one sentence: time over the best peer's (simple-elmo)", (0.5, "MISSED"))


def test_within_five_percent_a_target_is_met(reached):
    def met(times):
        rows = [encode_row("spacy-elmo"), encode_row("simple-elmo", times=times)]
        return [met for _, met in reached({"encode": rows}, "avx2").values()]

    assert (met(1 / 0.41), met(1 / 0.43)) == (["met"], ["MISSED"])


def test_stream_has_a_share_a_ratio_and_memory_and_its_limits_are_the_levels(reached):
    rows = [encode_row("spacy-elmo", case="stream", **{"peak MiB": 450.0})]
    rows += [encode_row("simple-elmo", case="stream", times=7.5, **{"peak MiB": 2_000.0})]
    rows += [encode_row("allennlp", case="stream", times=24.0, **{"peak MiB": 1_000.0})]
    assert reached({"encode": rows}, "avx512") == {
        "small, stream: share of the faster 2048 product": (0.6, "MISSED"),
        "small, stream: times the best peer (simple-elmo)": (7.5, "met"),
        "small, stream: peak memory over the best peer's (allennlp)": (0.45, "met"),
    }
    assert reached({"encode": rows}, "avx2")["small, stream: times the best peer (simple-elmo)"] == (7.5, "MISSED")


def test_targets_of_the_other_tables(reached):
    def threads(machine, setting, over):
        return {"size": "small", "machine": machine, "setting": setting, "default over it": over}

    tables = {
        "pipeline": [{"pipeline": "elmo", "times": None}, {"pipeline": "minilm", "times": 4.0}],
        "gates": [{"rows": 32, "dim": 1024, "ratio": 0.7}],
        "threads": [
            *(threads(machine, "default", None) for machine in ("idle", "busy")),
            *(threads("idle", f"threads = {n}", 1.0) for n in (1, 2)),
            *(threads("busy", f"threads = {n}", 1.5) for n in (1, 2)),
        ],
        "train": [{"model": "sm", "times": 3.0}, {"model": "sm", "times": None}],
    }
    found = reached(tables, "avx512")
    assert [met for _, met in found.values()] == ["MISSED", "MISSED", "met", "MISSED", ""]
    assert reached(tables, "avx2")["ELMo + NER over MiniLM + NER, words/s"] == (4.0, "met")
    assert reached(tables, None) == {}
