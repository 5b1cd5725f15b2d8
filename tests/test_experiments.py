"""The experiments read their corpora correctly, run what is missing and nothing twice, and count correctly."""

import argparse
import csv
import io
import itertools
import json
import lzma
import tarfile

import numpy as np
import pytest
import spacy
import torch
from sklearn.metrics import f1_score
from spacy.lang.en.stop_words import STOP_WORDS
from spacy.training import Example

from helpers.models import write_predictor
from spacy_elmo import formats
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.tools.init_config import build

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
    """Return a function that imports a module of the experiments."""
    return import_benchmark


@pytest.fixture
def corpora(tmp_path):
    """Write the five corpora, each as small as possible."""
    directory = tmp_path / "corpora"
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(text.encode()))
    return directory


def read(modules, corpora, task):
    return modules("heads").SETS[task].read(corpora)


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


def test_cache_benchmark_trains_all_on_the_same_batches(modules, monkeypatch, corpora, data):
    corpus = read(modules, corpora, "wnut17")
    args = argparse.Namespace(weights=str(data / "tiny_2l_skip"), batch_words=6)

    def batches(variant):
        arm, found = modules("cache").Arm(variant, "", corpus, args), []
        monkeypatch.setattr(arm.nlp, "update", lambda batch, **_: found.append([example.text for example in batch]))
        arm.run_epoch()
        arm.run_epoch()
        return found

    assert batches("tok2vec") == batches("elmo_accuracy")


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


# Probes

TWEETS = 'n,class,tweet\n1,0,"one\ntweet"\n' + "2,2,nice day\n3,1,silly thing\n" * 10
SPAM = 'ham\t"Ok, lar"\t\t\t\n' + "spam\tWin now\nham\tSee you\n" * 10
MASC = "# masc_tagged/a.txt\nIt fell .\nWe use it now .\n"
PAIR = {"linguistics_term": "agreement", "sentence_good": "It falls.", "sentence_bad": "It fall."}
WORDS = ["<S>", "</S>", "<UNK>", "it", "It", ".", "now", "We"]


@pytest.fixture
def probe_data(corpora):
    """Write the corpora, including those that only probes read."""
    for name, text in {
        "textcat/hate-offensive/labeled_data.csv.xz": TWEETS,
        "textcat/sms-spam/SMSSpamCollection.xz": SPAM,
        "textcat/banking77/train.csv.xz": "text,category\nWhere is it?,card\nHelp me,other\n" + "Stop it,card\n" * 18,
        "heldout/masc/masc_tokenized.txt.xz": MASC,
    }.items():
        (corpora / name).parent.mkdir(parents=True, exist_ok=True)
        (corpora / name).write_bytes(lzma.compress(text.encode()))
    content = lzma.compress(json.dumps(PAIR).encode())
    (corpora / "lm").mkdir()
    with tarfile.open(corpora / "lm/blimp.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo("blimp/agreement.jsonl.xz")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return corpora


@pytest.fixture
def state(data, tmp_path):
    """Write a tiny biLM with a vocabulary of eight words."""
    bilm = formats.load(data / "tiny_2l_skip")
    return write_predictor(bilm, WORDS, tmp_path / "state")


@pytest.fixture
def reference(modules, monkeypatch, tmp_path):
    """Return a function that sets the words for the perplexity."""

    def use(words):
        path = tmp_path / "vocabulary.txt.xz"
        path.write_bytes(lzma.compress("\n".join(words).encode()))
        monkeypatch.setattr(modules("probe"), "VOCABULARY", path)

    return use


def stem(word):
    endings = ("ing", "ers", "er", "ed", "es", "s", "ly")
    return next((word[: -len(end)] for end in endings if word.endswith(end) and len(word) > len(end) + 2), word)


def test_words_of_the_senses_list_stand_once_in_each_of_four_sentences_that_share_no_other(modules):
    path = modules("probe").SENSES
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    groups = {word: list(group) for word, group in itertools.groupby(rows, key=lambda row: row["word"])}
    assert len(groups) == len(rows) / 2 >= 110
    assert list(groups) == sorted(groups)
    assert len({row[which] for row in rows for which in ("first", "second")}) == 2 * len(rows)
    for word, (one, other) in groups.items():
        assert one["part of speech"] == other["part of speech"] in ("noun", "verb", "adjective")
        assert one["sense"] != other["sense"]
        content = []
        for sentence in (row[which].lower().split() for row in (one, other) for which in ("first", "second")):
            assert sentence.count(word) == 1
            words = [token for token in sentence if token[0].isalpha()]
            assert 8 <= len(words) <= 20
            content.append({stem(token) for token in words if token not in STOP_WORDS and token != word})
        assert all(not first & second for first, second in itertools.combinations(content, 2)), word


def test_sets_without_parts_are_split_by_the_number_of_the_item(modules, probe_data):
    corpora = modules("corpora")
    tweets, spam = corpora.read_hate_offensive(probe_data), corpora.read_spam(probe_data)
    assert [item.words for item in tweets.dev] == [["one", "tweet"], ["silly", "thing"], ["silly", "thing"]]
    for corpus in (tweets, spam):
        assert [len(part) for part in (corpus.train, corpus.dev, corpus.test)] == [16, 3, 2]
    assert (spam.dev[0].words, spam.dev[0].gold) == (["Ok", ",", "lar"], "ham")


def test_probe_scores_layers_features_and_predictions_and_reads_its_report(
    modules, monkeypatch, probe_data, state, reference, tmp_path, capsys
):
    probe, report = modules("probe"), tmp_path / "report.json"
    reference(WORDS)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["probe.py", *map(str, arguments), f"--data={probe_data}", "--threads=1"])
        probe.main()
        return capsys.readouterr().out

    table = run(state, "bag-of-words", "hashed", "--whole", f"--json={report}")
    rows = json.loads(report.read_bytes())["rows"]
    assert [row["layer"] for row in rows] == ["0", "1", "2", "mean", "all", "", ""]
    assert all(0 <= row[name] <= 100 for row in rows for name in probe.PROBES)
    assert rows[0]["senses"] == 50  # the token embedding reads no context
    assert [{"masc", "blimp"} <= row.keys() for row in rows] == [False, False, False, True, False, False, False]
    assert len(table.splitlines()) == 9
    assert run(report) == table


def test_probe_names_the_corpus_that_is_missing(modules, monkeypatch, tmp_path, data):
    monkeypatch.setattr("sys.argv", ["probe.py", str(data / "tiny_2l_skip"), f"--data={tmp_path / 'none'}"])
    with pytest.raises(SystemExit, match=r"wnut17train.*--data"):
        modules("probe").main()


def test_perplexity_is_over_the_reference_words_alone(modules, state, reference):
    probe, vectors = modules("probe"), modules("vectors")
    kept = [0, 1, 2, 4, 5]
    reference([WORDS[row] for row in kept])
    evaluator = vectors.load_bilm(str(state), None)[1]
    (batch,) = evaluator.predictions([["It", "now", "."]])
    weight, bias = evaluator.softmax.weight[kept], evaluator.softmax.bias[kept]
    truth = torch.tensor([[3, 2, 4, 1], [0, 3, 2, 4]])  # "now" is not among them, so it is <UNK>
    losses = [
        torch.nn.functional.cross_entropy(batch.hidden[direction] @ weight.T + bias, truth[direction])
        for direction in (0, 1)
    ]
    found = probe.zero_state(probe.over_reference_words(evaluator), [["It", "now", "."]]).perplexity
    assert found == pytest.approx(float(torch.stack(losses).mean().exp()), rel=1e-5)
    reference([*WORDS, "more"])
    assert probe.over_reference_words(evaluator) is None


def test_the_checkpoint_of_a_run_is_read(modules, state, data, tmp_path):
    bilm, softmax = formats.load(data / "tiny_2l_skip"), Softmax(len(WORDS), 16, seed=2)
    run = tmp_path / "run"
    run.mkdir()
    saved = Checkpoint(
        options=bilm.options.to_dict(),
        vocabulary="",
        step=1,
        rows=1,
        tokens_per_step=1,
        n_positions=1,
        origin=None,
        optimizer_name="adam",
        model=LanguageModel(bilm, softmax).state_dict(),
        optimizer={"state": {}},
        scaler={},
        states=[],
        since_log=torch.zeros(2),
    )
    saved.write(run / checkpoint.NAME)
    found, evaluator = modules("vectors").load_bilm(str(run), state)
    assert formats.digest(found) == formats.digest(bilm)
    assert torch.equal(evaluator.softmax.weight, softmax.weight)


def test_senses_are_compared_in_eight_ways(modules):
    won = modules("probe").comparisons_won
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert won(np.stack([one, one, other, other])) == 1
    assert won(np.stack([one, other, one, other])) == 0.25  # both pairs differ, and so do two of the four across: ties
    assert won(np.stack([one, one, one, one])) == 0.5


def test_entities_count_whole(modules):
    probe, item = modules("probe"), modules("corpora").Item
    items = [item(["a", "b"], ["B-PER", "I-PER"]), item(["c"], ["B-LOC"])]
    assert probe.entity_f1(items, ["B-PER", "I-PER", "B-LOC"]) == 1
    assert probe.entity_f1(items, ["B-PER", "O", "B-LOC"]) == 0.5
    assert probe.entity_f1(items, ["O", "I-PER", "I-LOC"]) == 0.5


def test_a_word_is_the_mean_of_its_pieces(modules):
    layers = torch.arange(10.0).view(1, 5, 2)
    found = modules("vectors").mean_of_pieces(layers, [None, 0, 0, 2, None], 3)
    assert found.tolist() == [[[3, 4], [0, 0], [6, 7]]]


def test_features_of_a_tag_are_of_the_word_and_its_neighbors(modules):
    vectors, item = modules("vectors"), modules("corpora").Item
    tagged = list(vectors.features_of([item(["A", "b"], ["X", "Y"])], vectors.lower))
    assert tagged == [["1 a", "2 b"], ["0 a", "1 b"]]
    assert list(vectors.features_of([item(["A", "b"], "x")], vectors.lower)) == [["a", "b"]]


# Heads

ENTITIES = ["0 2 PER", "3 4 LOC"]


def test_units_found_count_as_f1_of_entities_accuracy_of_words_and_macro_f1_of_texts(modules):
    scores = modules("scores")

    def score(golds, predicted, is_macro=False):
        return scores.f1(scores.count(golds, predicted, is_macro).sum(0))

    assert score([ENTITIES, []], [["0 2 PER", "3 4 ORG"], ["0 1 PER"]]) == pytest.approx(100 * 2 / 5)
    assert score([["0 X", "1 Y", "2 Y"], ["0 X"]], [["0 X", "1 X", "2 Y"], ["0 X"]]) == pytest.approx(75)
    texts, guesses = ["a", "a", "a", "b", "c"], ["a", "a", "b", "b", "b"]
    as_units = [[[label] for label in labels] for labels in (texts, guesses)]
    assert score(*as_units, is_macro=True) == pytest.approx(100 * f1_score(texts, guesses, average="macro"))
    assert score(*as_units) == pytest.approx(60)
    assert score([[]], [[]]) == 0


@pytest.mark.parametrize("name", ["wnut17", "ud_ewt", "banking77"])
def test_what_is_compared_is_what_spacy_scores(modules, corpora, name):
    heads, scores, side = modules("heads"), modules("scores"), modules("side")
    task, corpus = heads.SETS[name], read(modules, corpora, name)
    docs = heads.docs(corpus.test, task.component, corpus.labels)
    shuffled = docs[1:] + docs[:1] if name == "banking77" else docs
    nlp = spacy.blank("en")
    nlp.add_pipe(task.component)
    nlp.initialize(lambda: [Example(doc, doc) for doc in docs])
    spacys = nlp.get_pipe(task.component).score([Example(*pair) for pair in zip(shuffled, docs, strict=True)])
    both = [[side.units(doc, task.component) for doc in some] for some in (docs, shuffled)]
    metric = {"ner": "ents_f", "tagger": "tag_acc", "textcat": "cats_micro_f"}[task.component]
    assert scores.f1(scores.count(*both, False).sum(0)) == pytest.approx(100 * spacys[metric])
    assert (spacys[metric] < 1) == (name == "banking77")


def test_standard_errors_are_over_seeds_or_samples_that_are_the_same_for_both(modules):
    scores = modules("scores")
    counts = np.array([[[1, 0, 0]], [[0, 1, 1]]] * 50)
    samples = scores.bootstrap(counts)
    assert samples == scores.bootstrap(counts)
    assert np.mean(samples) == pytest.approx(50, abs=1)
    assert np.std(samples) == pytest.approx(5, abs=0.5)  # of 100 draws with even chances, in percent
    one = {0: {"score": 50.0, "bootstrap": samples}}
    higher = {0: {"score": 53.0, "bootstrap": [sample + 3 for sample in samples]}}
    assert scores.difference(higher, one) == pytest.approx((3, 0))
    seeds = [{seed: {"score": score} for seed, score in enumerate(some)} for some in ((3, 5, 7, 9), (1, 2, 3))]
    assert scores.difference(*seeds) == pytest.approx((3, 1 / 3**0.5))
    assert scores.difference(one, {1: one[0]}) is None


def test_a_training_ends_when_its_time_is_up_but_not_before_it_was_scored(modules):
    limit = modules("side").limit(minutes=0)
    limit(None, {"step": 0})
    with pytest.raises(SystemExit) as ended:
        limit(None, {"step": 1})
    assert ended.value.code == 0
    modules("side").limit(minutes=1e9)(None, {"step": 1})


TRANSFORMER = """
[components]
[components.transformer]
[components.transformer.model]
name = "local"
"""


@pytest.fixture
def run_heads(modules, monkeypatch, corpora, data, tmp_path, capsys):
    """Return a function that runs heads.py with a tiny biLM. It returns the exit status and the output."""
    settings = {"results": tmp_path / "results", "data": corpora, "weights": data / "tiny_2l_skip", "minutes": 0}

    def run(**changes):
        arguments = [f"--{name}={value}" for name, value in (settings | changes).items()]
        monkeypatch.setattr("sys.argv", ["heads.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            modules("heads").main()
        return ended.value.code, capsys.readouterr().out

    return run


def rows_of(printed):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:] if "|" in line]


def test_runs_of_the_same_config_are_made_once_and_a_failed_one_stops_no_other(
    run_heads, modules, monkeypatch, tmp_path
):
    heads, made = modules("heads"), []

    def measure(run, config, args):
        made.append((run.data, run.size, run.kind, run.seed))
        if run.data == "spam":
            raise heads.SideError("no such thing")
        parts = {
            part: {"score": score + run.seed, "words_per_second": 1_000.0, "bootstrap": [1.0, 2.0]}
            for part, score in (("dev", 50.0), ("test", 40.0))
        }
        return {**heads.asdict(run), "minutes": 6.0, **parts}

    monkeypatch.setattr(heads, "measure", measure)
    few = {"sets": "ud_ewt,scicite,spam", "kinds": "tfidf,default,minilm", "sizes": "100", "seeds": 2}
    monkeypatch.setattr(heads, "python_of", lambda name: None)
    monkeypatch.setattr(heads, "call", lambda *_: TRANSFORMER)
    status, printed = run_heads(**few)
    assert status == "3 runs failed, see above"
    of_scicite = [("scicite", 100, kind, seed) for kind, seed in (("tfidf", 0), ("default", 0), ("minilm", 0))]
    of_scicite += [("scicite", 100, "tfidf", 1), ("scicite", 100, "default", 1)]
    assert made[:7] == [("ud_ewt", 100, "default", 0), ("ud_ewt", 100, "minilm", 0), *of_scicite]
    assert made[7:] == [("spam", 100, kind, 0) for kind in ("tfidf", "default", "minilm")]
    assert [row[:4] for row in rows_of(printed)][2] == ["scicite, macro F1", "100%", "tfidf", "50.5 ± 0.7"]
    assert rows_of(printed)[2][5:] == ["+0.0 ± 0.0", "6.0", "1,000"]
    assert printed.endswith("7 runs, 0.7 hours of training\n")
    made.clear()
    of_test = run_heads(**few, part="test")[1]
    assert rows_of(of_test)[2][3] == "40.5 ± 0.7"
    made.clear()
    assert run_heads(**few)[1] == printed
    assert {data for data, *_ in made} == {"spam"}
    made.clear()
    monkeypatch.setattr(heads, "CS", (1.0,))  # another tfidf
    heads.configure.cache_clear()
    run_heads(**few | {"sets": "scicite", "seeds": 1})
    assert made == [("scicite", 100, "tfidf", 0)]


def test_seeds_of_two_configs_make_no_row(modules):
    records = [
        {"data": "spam", "size": 10, "kind": "tfidf", "seed": seed, "digest": str(seed), "model": None, "minutes": 0}
        for seed in (0, 1)
    ]
    with pytest.raises(SystemExit, match="spam, 10%, tfidf"):
        list(modules("heads").table(records))


def test_a_regression_on_uni_and_bigrams_learns_what_only_an_order_tells(modules):
    heads, item = modules("heads"), modules("corpora").Item
    items = [item(["not", "bad", "at", "all"], "good"), item(["bad", "not", "at", "all"], "poor")] * 5
    found = heads.regress(items, {"dev": items, "test": items[:2]})
    assert found["test"]["units"] == [["good"], ["poor"]]
    assert found["C"] in heads.CS


def test_the_kinds_are_the_configs_that_the_commands_write(modules, data):
    configure, weights = modules("heads").configure, str(data / "tiny_2l_skip")
    for kind, optimize in (("default", "speed"), ("accuracy", "accuracy")):
        config, digest, model = configure(kind, "ner", weights)
        assert config == build(["ner"], weights=weights, optimize=optimize)
        assert (digest, model) == (configure(kind, "ner", weights)[1], formats.digest(formats.load(weights)))
    texts = configure("tok2vec", "textcat", weights)[0]
    assert texts["components"]["textcat"]["model"]["@architectures"] == "spacy.TextCatBOW.v3"


@pytest.mark.slow
def test_a_run_trains_by_the_command_and_scores_what_it_has_written(run_heads, tmp_path):
    status, printed = run_heads(sets="banking77", kinds="tok2vec,tfidf,default", sizes="100", seeds=1, part="test")
    assert status == 0
    (tok2vec, tfidf, default) = rows_of(printed)
    assert [row[2] for row in (tok2vec, tfidf, default)] == ["tok2vec", "tfidf", "default"]
    record = json.loads((tmp_path / "results" / "banking77-100-default-0.json").read_bytes())
    assert record["is_cut"] is True
    assert record["train_items"] == 18
    for part in ("dev", "test"):
        assert 0 <= record[part]["score"] <= 100
        assert len(record[part]["bootstrap"]) == 1_000
