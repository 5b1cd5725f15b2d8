"""The benchmarks' harness refuses what it cannot do before it measures, runs the sides in turns, and tables the
results."""

import argparse
import json
import os
import sys

import pytest


@pytest.fixture
def harness(import_benchmark):
    return import_benchmark("harness")


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("bench")


@pytest.fixture
def processor(harness, monkeypatch):
    """Return a function that gives this machine another processor."""

    def set_levels(*levels):
        monkeypatch.setattr(harness, "instruction_sets", lambda: [*levels, "generic"])

    return set_levels


@pytest.fixture
def report(harness, monkeypatch):
    """Return a function that makes a report of a level, without a process for the machine."""

    class Machine:
        def ask(self, command, **_):
            return {"describe": {"processor": "a processor"}, "rates": {"torch": 2e11, "oneDNN": 4e11}}.get(command)

    def make(level):
        monkeypatch.setattr(harness.Report, "start", lambda *_, **__: Machine())
        return harness.Report(level, 1, None)

    return make


# Levels


def test_all_levels_of_a_processor_are_its_best_and_those_below_it(harness, processor, report):
    processor("avx512", "avx2")
    assert harness.find_levels("all") == ["avx512", "avx2"]
    assert [report(level).about for level in harness.find_levels("all")] == [
        "avx512, native", "avx2, forced: the processor has avx512"
    ]  # fmt: skip
    processor("avx2")
    assert report(*harness.find_levels("all")).about == "avx2, native"


def test_native_sets_nothing_and_has_the_targets_of_the_best_level(processor, report):
    processor("avx512", "avx2")
    native = report("native")
    assert (native.variables, native.level, native.about) == ({}, "avx512", "native, native")


def test_level_that_the_processor_lacks_is_refused_with_one_line(bench, processor, capsys):
    processor("avx2")
    with pytest.raises(SystemExit):
        bench.parse_arguments(["encode", "--level", "avx512"])
    assert "no level 'avx512' on this processor; expected avx2, native" in capsys.readouterr().err.splitlines()[-1]


def test_processor_of_another_kind_has_no_level_but_its_own(harness, processor, report):
    processor("neon")
    assert harness.find_levels("all") == ["native"]
    assert report("native").level == "native"


def test_every_process_has_the_variables_of_the_level_and_no_others_of_that_kind(harness, monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(harness.RUNNER.parent)!r})\nfrom runner import serve\n"
        "class Look:\n    def look(self): return dict(os.environ)\nserve(Look())\n"
    )
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    wanted = harness.variables_of("avx2")
    with harness.Worker(harness.Path(sys.executable), environment=wanted, script=script) as worker:
        found = worker.ask("look")
    assert wanted.items() <= found.items()
    assert found["ATEN_CPU_CAPABILITY"] == "avx2"
    assert found["HOME"] == os.environ["HOME"]
    assert "OMP_WAIT_POLICY" not in found


# Refusals


@pytest.mark.parametrize("command", ["targets", "encode", "pipeline", "processes", "train"])
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


# Turns, tables, reports


def test_sides_run_once_and_then_in_turn_and_are_compared_with_the_first(harness):
    calls = []

    class Machine:
        def ask(self, _):
            calls.append("-")
            return {"torch": 2e11, "oneDNN": 4e11}

    turns = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    first, other = harness.take_turns({"size": "x"}, turns, {"a": 8, "b": 4}, 2, n_calls=2, machine=Machine())
    assert calls == ["a", "b", "-", "a", "b", "-", "a", "b"]
    assert (first["seconds"], other["seconds"]) == ([4, 7], [5, 8])
    assert (first["times"], other["times"]) == (None, (8 / 4 / (4 / 5) + 8 / 7 / (4 / 8)) / 2)
    assert (first["ms"], other["tokens/s"]) == (1e3 * 5.5 / 2, (4 / 5 + 4 / 8) / 2)
    assert (first["size"], first["oneDNN GFLOP/s"], other["products"]) == ("x", 400, [4e11, 4e11])


def test_ratio_is_the_median_over_repetitions(harness):
    assert harness.ratio([1.0, 6.0, 9.0], [1.0, 2.0, 1.0]) == 3.0


def test_table_has_a_column_for_each_name_and_no_lists(harness):
    rows = [
        {"engine": "ours", "tokens/s": 22_081.4, "times": None, "seconds": [1.0]},
        {"engine": "theirs", "tokens/s": 9.123, "times": 2.4201, "off by": 3.14e-7, "seconds": [1.0]},
    ]
    assert list(harness.render_table(rows)) == [
        "engine  tokens/s  times    off by",
        "ours      22,081      -         -",
        "theirs      9.12   2.42  3.14e-07",
    ]


@pytest.mark.usefixtures("report")
def test_report_names_processor_level_and_versions_and_keeps_every_repetition(
    harness, processor, report, tmp_path, capsys
):
    processor("avx512", "avx2")
    report("native")  # from now on, reports have no process

    def measure(report, args):
        report.tables["encode"] = [{"size": "small", "seconds": [1.0, 2.0]}]
        report.left_out["a peer"] = "no room"

    file = tmp_path / "report.json"
    args = argparse.Namespace(command="encode", level=["avx512", "avx2"], threads=1, json=file)
    harness.run_levels(measure, args)
    text, written = capsys.readouterr().out, json.loads(file.read_text())
    assert '"processor": "a processor"' in text
    assert "no room" in text
    assert [one["about"].split(";")[0] for one in written["levels"]] == [
        "avx512, native", "avx2, forced: the processor has avx512"
    ]  # fmt: skip
    assert written["levels"][1]["variables"]["SPACY_ELMO_ISA"] == "avx2"
    assert "torch" in written["levels"][0]["versions"]
    assert written["levels"][0]["tables"]["encode"][0]["seconds"] == [1.0, 2.0]
    assert written["arguments"]["command"] == "encode"


# Targets


def encode_row(side, size="small", case="single", times=None, **others):
    return {"side": side, "size": size, "case": case, "times": times, "of product": 0.6, "peak MiB": None, **others}


@pytest.fixture
def reached(import_benchmark):
    """Return a function that gives the result for each target, and whether it is met."""

    def find(tables, level):
        rows = import_benchmark("targets").targets(tables, level)
        return {row["target"]: (round(row["reached"], 2), row[""]) for row, _ in rows}

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
    def threads(machine, side, over):
        return {"size": "small", "machine": machine, "side": side, "times": over and 1 / over}

    tables = {
        "pipeline": [{"side": "elmo", "times": None}, {"side": "minilm", "times": 2.3}],
        "gates": [{"rows": 32, "dim": 1024, "ratio": 0.7}],
        "threads": [
            *(threads(machine, "default", None) for machine in ("idle", "busy")),
            *(threads("idle", f"threads = {n}", 1.0) for n in (1, 2)),
            *(threads("busy", f"threads = {n}", 1.5) for n in (1, 2)),
        ],
        "train": [
            {"size": "sm", "side": "spacy-elmo", "times": None},
            {"size": "sm", "side": "plain step", "times": 3.0},
        ],
    }
    found = reached(tables, "avx512")
    assert [met for _, met in found.values()] == ["MISSED", "met", "MISSED", "MISSED", ""]
    minilm = {"pipeline": [{"side": "elmo", "times": None}, {"side": "minilm", "times": 4.0}]}
    assert reached(minilm, "avx2")["ELMo + NER over MiniLM + NER, words/s"] == (4.0, "met")
    assert reached(tables, "native") == {}


@pytest.mark.parametrize(("case", "needed"), [("stream", "needed_operations"), ("single", "needed_bytes")])
def test_missed_target_comes_with_the_limit_of_the_machine(
    bench, report, import_benchmark, data, monkeypatch, case, needed
):
    cases, found = import_benchmark("cases"), report("native")
    options = bench.cases.load("bundled").options
    monkeypatch.setattr(cases, "write_model", lambda size: ("", options))
    found.tables["encode"] = [encode_row("spacy-elmo", case=case, seconds=[2.0])]
    monkeypatch.setattr(
        found.machine, "ask", lambda command, **_: {"bandwidth": 5e9, "rates": {"torch": 1e9, "oneDNN": 5e9}}[command],
        raising=False,
    )  # fmt: skip
    args = bench.parse_arguments(["targets", "--sentences=1"])
    limit = bench.find_limit(found, args, "small", case)
    (sentence,) = cases.read_sentences(1)
    count = getattr(cases, needed)(options, [sentence] if case == "stream" else sentence)
    assert limit == {"limit": "5 GFLOP/s" if case == "stream" else "5 GB/s", "of limit": pytest.approx(count / 2 / 5e9)}
