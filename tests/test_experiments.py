"""The experiments read their corpora right, run what is missing and nothing twice, and count what they say."""

import argparse
import json
import lzma
from pathlib import Path

import pytest

WNUT = "#photography\tO\nin\tO\nNew\tB-location\nYork\tI-location\n\t\nok\tO\n\n\n"
UNER = (
    "# text = Al-Zaman .\n1\tAl\tB-ORG\t-\tx\n2\tZaman\tI-ORG\t-\tx\n3\tAmerican\tB-OTH\t-\tx\n4\tforces\tI-OTH\t-\tx\n"
    "5\t.\tB-O\t-\tx\n\n# text = no\n1\t#\tO\n2\tno\tO\n"
)
CONLLU = (
    "# text = vámonos al mar\n1-2\tvámonos\t_\t_\n1\tvamos\tir\tVERB\n2\tnos\tnosotros\tPRON\n2.1\tal\t_\tADP\n"
    "3\tmar\u0085\tmar\tNOUN\n\n"
)
SCICITE = [{"text": "We use\n[1] .", "label": "method"}, {"text": "It fell.", "label": "result"}]
BANKING = 'text,category\n"Where is it, now?",card_arrival\n' + "Help me,other\n" * 19
FILES = {
    "ner/wnut17/wnut17train.conll.xz": WNUT * 5,
    "ner/wnut17/emerging.dev.conll.xz": WNUT,
    "ner/wnut17/emerging.test.annotated.xz": WNUT,
    **{f"ner/uner-ewt/en_ewt-ud-{part}.iob2.xz": UNER for part in ("train", "dev", "test")},
    **{f"pos/ud-english-ewt/en_ewt-ud-{part}.conllu.xz": CONLLU for part in ("train", "dev", "test")},
    **{
        f"textcat/scicite/{part}.txt.xz": "".join(json.dumps(one) + "\n" for one in SCICITE)
        for part in ("train", "dev", "test")
    },
    **{f"textcat/banking77/{part}.csv.xz": BANKING for part in ("train", "test")},
}


@pytest.fixture
def modules(import_benchmark):
    """A function that imports a module of the experiments."""
    return import_benchmark


@pytest.fixture
def corpora(tmp_path):
    """The five corpora, each as small as can be."""
    directory = tmp_path / "corpora"
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(text.encode()))
    return directory


@pytest.fixture
def run_tasks(modules, monkeypatch, corpora, data, tmp_path):
    """A function that runs tasks.py with a tiny biLM and returns what it writes with --json."""
    tasks = modules("tasks")
    settings = {"results": tmp_path / "results", "data": corpora, "weights": data / "tiny_2l_skip"}
    settings |= {"json": tmp_path / "table.json", "updates": 2, "evaluations": 1, "threads": 1}

    def run(**changes):
        arguments = [f"--{name}={value}" for name, value in (settings | changes).items()]
        monkeypatch.setattr("sys.argv", ["tasks.py", *arguments])
        tasks.main()
        return json.loads((tmp_path / "table.json").read_bytes())

    return run


def read(modules, corpora, task):
    return modules("corpora").TASKS[task].read(corpora)


def test_wnut17_has_hashtags_and_blank_lines_of_tabs(modules, corpora):
    corpus = read(modules, corpora, "wnut17")
    assert [(item.words, item.gold) for item in corpus.test] == [
        (["#photography", "in", "New", "York"], ["O", "O", "B-location", "I-location"]),
        (["ok"], ["O"]),
    ]
    assert len(corpus.train) == 10


def test_uner_ewt_drops_the_labels_that_only_train_has(modules, corpora):
    first, last = read(modules, corpora, "uner_ewt").train
    assert first.gold == ["B-ORG", "I-ORG", "O", "O", "O"]
    assert last.words == ["#", "no"]


def test_ud_ewt_has_syntactic_words_only(modules, corpora):
    (item,) = read(modules, corpora, "ud_ewt").dev
    assert item.words == ["vamos", "nos", "mar\u0085"]
    assert item.gold == ["VERB", "PRON", "NOUN"]


def test_texts_are_cut_into_words_without_whitespace(modules, corpora):
    corpus = read(modules, corpora, "scicite")
    assert corpus.train[0].words == ["We", "use", "[", "1", "]", "."]
    assert corpus.labels == ["method", "result"]


def test_banking77_holds_out_a_dev_part(modules, corpora):
    corpus = read(modules, corpora, "banking77")
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (18, 2, 20)
    assert corpus.test[0].words == ["Where", "is", "it", ",", "now", "?"]
    assert corpus.test[0].gold == "card_arrival"


def test_sample_is_the_same_for_a_seed_and_another_for_another(modules):
    module = modules("corpora")
    corpus = module.Corpus([module.Item([str(number)], "x") for number in range(200)], [], [])
    assert corpus.train_sample(10, 1) == corpus.train_sample(10, 1) != corpus.train_sample(10, 2)
    assert len(corpus.train_sample(10, 1)) == 20
    assert corpus.train_sample(100, 1) == corpus.train


@pytest.mark.parametrize("task", ["wnut17", "ud_ewt", "banking77"])
def test_gold_annotation_is_what_the_scorer_reads(modules, corpora, task):
    corpus, settings, pipelines = read(modules, corpora, task), modules("corpora").TASKS[task], modules("pipelines")
    nlp = pipelines.make_pipeline(pipelines.components(settings.component, "tok2vec", 0), "")
    examples = pipelines.make_examples(nlp.vocab, corpus.test, settings, corpus.labels)
    nlp.initialize(lambda: examples)
    for example in examples:
        example.predicted = example.reference
    assert nlp.get_pipe(settings.component).score(examples)[settings.metric] == 1


def test_variants_have_the_same_encoder_and_head(modules):
    pipelines = modules("pipelines")
    settings = {variant: pipelines.components("ner", variant, 128) for variant in pipelines.VARIANTS}
    heads = [{**one["ner"]["model"], "tok2vec": one["ner"]["model"]["tok2vec"]["encode"]} for one in settings.values()]
    assert all(head == heads[0] for head in heads)
    frozen = {variant: one["elmo"]["frozen"] for variant, one in settings.items() if "elmo" in one}
    assert frozen == {"elmo_mean": True, "elmo": True, "elmo_concat": True, "elmo_finetuned": False}


def test_batches_are_the_same_for_all_variants(modules, corpora, data):
    pipelines, corpus, task = modules("pipelines"), read(modules, corpora, "wnut17"), modules("corpora").TASKS["wnut17"]

    def batches(variant, width):
        nlp = pipelines.make_pipeline(pipelines.components("ner", variant, width), str(data / "tiny_2l_skip"))
        examples = pipelines.make_examples(nlp.vocab, corpus.train, task, [])
        training = pipelines.Training(nlp, examples, seed=3, batch_words=6)
        return [[example.text for example in batch] for _ in range(2) for batch in training.epoch()]

    assert batches("tok2vec", 0) == batches("elmo_concat", 32)


def test_runs_that_are_there_are_not_run_again_and_the_table_grows(run_tasks, modules, monkeypatch, capsys):
    tasks = modules("tasks")
    first = run_tasks(tasks="ud_ewt", variants="tok2vec", sizes="100", seeds="0")
    assert [(row["variant"], row["seeds"], row["sd"], row["gamma"]) for row in first["rows"]] == [
        ("tok2vec", [0], None, None)
    ]
    second = run_tasks(tasks="ud_ewt", variants="tok2vec,elmo,elmo_finetuned", sizes="100", seeds="0")
    assert "tok2vec-0-" in capsys.readouterr().err
    baseline, elmo = second["rows"]
    assert baseline == first["rows"][0]
    assert elmo["over_tok2vec"] == pytest.approx(elmo["score"] - baseline["score"])
    assert sum(elmo["layer_weights"]) == pytest.approx(1)
    monkeypatch.setattr(tasks, "measure", None)
    assert run_tasks(tasks="ud_ewt", variants="tok2vec,elmo", sizes="100", seeds="0") == second
    with pytest.raises(TypeError):
        run_tasks(tasks="ud_ewt", variants="tok2vec", sizes="100", seeds="0", updates=3)


def test_fine_tuning_changes_the_bilm_that_is_scored(run_tasks, modules, monkeypatch):
    tasks, digests = modules("tasks"), []
    right = tasks.test

    def watch(nlp, *args):
        digests.append(nlp.get_pipe("elmo").model.shims[0].digest)
        return right(nlp, *args)

    monkeypatch.setattr(tasks, "test", watch)
    report = run_tasks(tasks="scicite", variants="elmo_mean,elmo_finetuned", sizes="100", seeds="0")
    assert digests[0] == report["digest"] != digests[1]


def make_record(variant, seed, score):
    mix = {"weights": [0.5, 0.25, 0.25], "gamma": 1.0 + seed} if variant == "elmo" else None
    return {
        "task": "banking77", "size": 10, "variant": variant, "seed": seed, "score": score, "mix": mix,
        "updates": 8, "best_update": 4, "train_items": 900, "training_words_per_second": 10.0 + seed,
        "inference_words_per_second": 20.0, "versions": {"spacy": "3"}, "cpu": "a cpu", "threads": 1,
    }  # fmt: skip


def test_table_has_means_deviations_and_the_gain_seed_by_seed(modules):
    table = modules("task_table")
    records = [make_record("tok2vec", seed, score) for seed, score in ((0, 0.5), (1, 0.6), (2, 0.9))]
    records += [make_record("elmo", seed, score) for seed, score in ((0, 0.7), (1, 0.9))]
    report = {"weights": "en_elmo_sm", "digest": "0" * 64, "encoders": {"ner": (96, 4)}, **table.tabulate(records)}
    baseline, elmo = report["rows"]
    assert (baseline["score"], baseline["over_tok2vec"]) == (pytest.approx(200 / 3), None)
    assert (elmo["score"], elmo["sd"], elmo["over_tok2vec"]) == pytest.approx((80, 14.142, 25), abs=1e-3)
    assert (elmo["gamma"], elmo["training_words_per_second"], elmo["seeds"]) == (1.5, 10.5, [0, 1])
    last = " ".join(table.render(report).splitlines()[-1].split())
    assert last == "banking77 10% accuracy elmo 80.00 ± 14.14 +25.00 2 4/8 10.5 20.0 0.50 0.25 0.25 1.50"


def test_no_runs_make_no_table(modules):
    assert modules("task_table").render({"rows": []}) == "no runs"


def test_cache_benchmark_counts_what_was_remembered(modules, corpora, data):
    cache = modules("cache")
    weights = str(data / "tiny_2l_skip")
    args = argparse.Namespace(sentences=6, epochs=2, batch_words=8, weights=weights, data=corpora, threads=1)
    rows = cache.run(args)["rows"]
    assert [row["memory"] for row in rows] == ["", *["cache", "no cache", "file"] * 2, "", *["file, warm"] * 2]
    _, memory, off, file, *_, warm, _ = rows
    counts = [tuple(row.get(name) for name in ("hits", "misses", "sentences")) for row in (memory, off, file, warm)]
    assert counts[0] == counts[2] != counts[1] == (None, None, None)
    assert counts[0][1:] == (2, 2)  # two distinct sentences, read once each
    assert counts[3][1:] == (0, 2)
    assert memory["dev F1"] == off["dev F1"] == warm["dev F1"]
    assert all(row["epoch 2"] > 0 for row in rows)


def test_stored_runs_of_the_table_are_those_that_the_command_finds(modules, monkeypatch, capsys):
    tasks = modules("tasks")
    results = Path(tasks.__file__).parent / "results"
    monkeypatch.setattr("sys.argv", ["tasks.py", f"--results={results}", "--tasks=wnut17", "--threads=1"])
    monkeypatch.setattr(tasks, "measure", None)
    tasks.main()
    assert "14.89 ± 3.01" in capsys.readouterr().out
