"""The benchmark of whole pipelines runs what it says and compares repetition by repetition."""

import pytest


@pytest.mark.parametrize(
    ("name", "components"), [("elmo", ["sentencizer", "elmo", "ner"]), ("tok2vec", ["tok2vec", "ner"])]
)
def test_pipeline_reads_raw_text_to_the_end(import_benchmark, name, components):
    commands = import_benchmark("pipeline_worker").Commands(name, threads=1)
    commands.load()
    assert commands.nlp.pipe_names == components
    assert commands.time(["Rome is old.", "So are we."])["words"] == 8


def test_ratio_is_the_median_over_repetitions(import_benchmark):
    speed = import_benchmark("pipeline_speed")
    runs = speed.Runs({"elmo": 100, "minilm": 50}, {"elmo": [1.0, 2.0, 1.0], "minilm": [1.0, 1.0, 4.0]})
    elmo, minilm = speed.make_rows({"elmo": ["a", "b"], "minilm": ["a"]}, runs)
    assert (elmo.ratio, elmo.words_per_second) == (None, 100)
    assert (minilm.ratio, minilm.words_per_second) == (2, 50)
    (target,) = speed.targets([elmo, minilm])
    assert (target.reached, target.met) == (2, False)
