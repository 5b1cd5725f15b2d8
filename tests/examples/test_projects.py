"""The spaCy projects in examples/: their conversion scripts and samples, and that they run."""

import csv
import hashlib
import importlib.util
import json
import lzma
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import spacy
import srsly
from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.vocab import Vocab
from weasel.util import load_project_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROJECTS = {
    "ner_wnut17": ["wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"],
    "textcat_banking77": ["train.csv", "test.csv"],
    "textcat_toxic": ["train.csv", "test.csv", "test_labels.csv"],
}
ORIGINALS = [("ner_wnut17", "ner/wnut17"), ("textcat_banking77", "textcat/banking77")]  # folders in shared/data
PARTS = ["train", "dev", "test"]
TYPES = {"person", "location", "corporation", "product", "creative-work", "group"}


def script(project):
    """Import the conversion script of a project as a module."""
    name = f"convert_{project.partition('_')[2]}"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / project / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wnut17():
    return script("ner_wnut17")


@pytest.fixture(scope="module")
def banking77():
    return script("textcat_banking77")


@pytest.fixture(scope="module")
def toxic():
    return script("textcat_toxic")


def copy_of(project, target):
    """Copy a project, without files that runs left in it."""
    ignored = (EXAMPLES / project / ".gitignore").read_text().replace("/", "").split()
    return shutil.copytree(EXAMPLES / project, target, ignore=shutil.ignore_patterns("__pycache__", *ignored))


def convert(module, monkeypatch, data, out):
    """Run the script and return the Docs that it writes."""
    monkeypatch.setattr(sys, "argv", ["convert", str(data), str(out)])
    module.main()
    return {part: list(DocBin().from_disk(out / f"{part}.spacy").get_docs(Vocab())) for part in PARTS}


# WNUT-17

GOOD = "Ann\tB-person\nin\tO\nNew\tB-location\nYork\tI-location\n\t\n\n#\tO\nBob\tB-person\nJo\tB-person\n"


@pytest.fixture
def tweets(tmp_path):
    """Make a folder with the files of WNUT-17. All are the same, and one of them is compressed."""
    folder = tmp_path / "data"
    folder.mkdir()
    train, dev, test = (folder / name for name in PROJECTS["ner_wnut17"])
    train.write_bytes(GOOD.replace("\n", "\r\n").encode())
    dev.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    Path(f"{test}.xz").write_bytes(lzma.compress(GOOD.encode()))
    return folder


def test_words_and_tags_become_docs_with_entities(wnut17, tweets, tmp_path, monkeypatch, capsys):
    for docs in convert(wnut17, monkeypatch, tweets, tmp_path / "new" / "corpus").values():
        assert [[token.text for token in doc] for doc in docs] == [["Ann", "in", "New", "York"], ["#", "Bob", "Jo"]]
        entities = [[(ent.text, ent.label_) for ent in doc.ents] for doc in docs]
        assert entities[0] == [("Ann", "person"), ("New York", "location")]
        assert entities[1] == [("Bob", "person"), ("Jo", "person")]
        assert all(token.ent_iob_ for doc in docs for token in doc)  # O is set, not left open
    counted = "2 sentences, 7 words, 4 entities: person 3, location 1"
    assert capsys.readouterr().out == f"train  {counted}\ndev    {counted}\ntest   {counted}\n"


def test_training_is_on_the_words_of_the_data(wnut17, tmp_path):
    (tmp_path / "some.conll").write_text("#new\tO\ndo\tO\nn't\tO\nYahoo!\tB-corporation\n")
    wnut17.to_docbin(wnut17.read_sentences(tmp_path / "some.conll")).to_disk(tmp_path / "some.spacy")
    (example,) = Corpus(tmp_path / "some.spacy")(spacy.blank("en"))
    assert [token.text for token in example.predicted] == ["#new", "do", "n't", "Yahoo!"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tO\nb O\n", r"line 2: expected a word, a tab and a tag, found 'b O'"),
        ("a\tb\tO\n", r"line 1: expected a word, a tab and a tag"),
        ("\tO\n", r"line 1: expected a word"),
        ("\u00a0\tO\n", r"line 1: expected a word"),
        ("a\tperson\n", r"line 1: 'person' is not a tag; expected O, B-label or I-label"),
        ("a\tB-\n", r"line 1: 'B-' is not a tag"),
        ("a\tS-person\n", r"line 1: 'S-person' is not a tag"),
        ("a\tO-person\n", r"line 1: 'O-person' is not a tag"),
        ("a\tb-person\n", r"line 1: 'b-person' is not a tag"),
        ("a\tO \n", r"line 1: 'O ' is not a tag"),
        ("a\tI-person\n", r"line 1: I-person follows O; it can only follow B-person or I-person"),
        ("a\tB-group\nb\tI-person\n", r"line 2: I-person follows B-group"),
        ("a\tB-person\n\nb\tI-person\n", r"line 3: I-person follows O"),
        ("", "no entity in this file"),
        ("a\tO\n", "no entity in this file"),
    ],
)
def test_lines_that_do_not_fit_are_named(wnut17, tmp_path, content, message):
    path = tmp_path / "bad.conll"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(wnut17.DataError, match=rf"bad\.conll.*{message}"):
        list(wnut17.read_sentences(path))


# BANKING77


@pytest.fixture
def questions(tmp_path):
    """Make a folder with the files of BANKING77. One of them is compressed."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [(f"Why {number}, {category}?", category) for number in range(1, 13) for category in ("fee", "card")]
    write_csv(folder / "train.csv", [("text", "category"), *rows])
    write_csv(folder / "plain.csv", [("text", "category"), ('\n"Is \u00a0it\n\nfree?"', "fee")])
    (folder / "test.csv.xz").write_bytes(lzma.compress((folder / "plain.csv").read_bytes()))
    return folder


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def test_rows_become_docs_with_categories(banking77, questions, tmp_path, monkeypatch, capsys):
    docs = convert(banking77, monkeypatch, questions, tmp_path / "new" / "corpus")
    assert {part: len(some) for part, some in docs.items()} == {"train": 20, "dev": 4, "test": 1}
    assert [doc.text for doc in docs["dev"]] == ["Why 2, fee?", "Why 2, card?", "Why 12, fee?", "Why 12, card?"]
    assert docs["train"][1].text == "Why 1, card?"
    assert docs["train"][1].cats == {"card": 1.0, "fee": 0.0}
    (free,) = docs["test"]
    assert free.text == '"Is it free?"'
    assert free.cats == {"card": 0.0, "fee": 1.0}
    assert capsys.readouterr().out.splitlines() == [
        "train  20 questions in 2 categories, 10 to 10 in each",
        "dev    4 questions in 2 categories, 2 to 2 in each",
        "test   1 questions in 1 categories, 1 to 1 in each",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the columns text,category, found ''"),
        ("query,intent\na,b\n", "expected the columns text,category, found 'query,intent'"),
        ("text,category\na,b,c\n", r"line 2: expected a text and a category, found \['a', 'b', 'c'\]"),
        ("text,category\na,b\n\nc,d\n", r"line 3: expected a text and a category, found \[\]"),
        ("text,category\na,b\n ,b\n", "line 3: expected a text and a category"),
        ("text,category\na,\n", "line 2: expected a text and a category"),
        ('text,category\na,b\n"a,b\n', "line 3: damaged"),
        ('text,category\n"a"b,c\n', "line 2: damaged"),
    ],
)
def test_rows_that_do_not_fit_are_named(banking77, tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(banking77.DataError, match=rf"bad\.csv.*{message}"):
        list(banking77.read_questions(path))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["fee"] * 2, ["fee"], "train.csv has 1 categories"),
        ([], ["fee"], "train.csv has 0 categories"),
        (["fee", "card"], ["fee"], "no questions for the dev part"),
        (["fee", "card"] * 2, [], "no questions for the test part"),
        (["fee", "card"] * 2, ["fee", "pin"], "the test part has categories that train.csv lacks: pin"),
    ],
)
def test_categories_that_do_not_fit_are_named(banking77, train, test, message):
    train, dev = banking77.hold_out(banking77.Question("text", category) for category in train)
    test = [banking77.Question("text", category) for category in test]
    with pytest.raises(banking77.DataError, match=message):
        banking77.categories_of({"train": train, "dev": dev, "test": test})


# Jigsaw's toxic comments

HEADER = "id,comment_text,toxic,severe_toxic,obscene,threat,insult,identity_hate"


@pytest.fixture
def comments(tmp_path):
    """Make a folder with Jigsaw's train.csv, with 20 comments and alternating labels."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [f'{n},"Comment\n {n}",{",".join(str(int((n + k) % 3 == 0)) for k in range(6))}' for n in range(1, 21)]
    (folder / "train.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def test_comments_become_docs_with_several_labels(toxic, comments, tmp_path, monkeypatch, capsys):
    docs = convert(toxic, monkeypatch, comments, tmp_path / "new" / "corpus")
    numbers = {part: [int(doc.text.removeprefix("Comment ")) for doc in some] for part, some in docs.items()}
    assert numbers["dev"] == [2, 12]
    assert numbers["test"] == [7, 17]
    assert numbers["train"] == [n for n in range(1, 21) if n % 10 not in (2, 7)]
    assert docs["dev"][0].cats == {label: float((2 + k) % 3 == 0) for k, label in enumerate(toxic.LABELS)}
    assert capsys.readouterr().out.splitlines()[1].startswith("dev    2 comments: toxic 1, severe_toxic 1, obscene 0")


def test_comments_that_somebody_has_judged_are_the_test_part(toxic, comments, tmp_path, monkeypatch):
    (comments / "test.csv").write_text('id,comment_text\na,One\nb,"Two, too"\nc,Three\n')
    (comments / "test_labels.csv").write_text(
        "id,toxic,severe_toxic,obscene,threat,insult,identity_hate\nc,0,0,0,0,0,0\nb,1,0,0,0,1,0\na,-1,-1,-1,-1,-1,-1\n"
    )
    docs = convert(toxic, monkeypatch, comments, tmp_path / "corpus")
    assert [doc.text for doc in docs["test"]] == ["Two, too", "Three"]
    assert [label for label, score in docs["test"][0].cats.items() if score] == ["toxic", "insult"]
    assert len(docs["train"]) == 18
    (comments / "test.csv").write_text("id,comment_text\nd,Four\n")
    with pytest.raises(toxic.DataError, match=r"test\.csv, line 2: the comment 'd' is not in .*test_labels\.csv"):
        toxic.read_parts(comments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column comment_text, toxic, severe_toxic, obscene, threat, insult, identity_hate among ''"),
        (HEADER.replace("insult", "rude"), "no column insult among"),
        (f"{HEADER}\n1,a,0,0,0,0,0\n", "line 2: expected 8 fields, found 7"),
        (f"{HEADER}\n1,a,0,0,0,0,0,0\n2,b,0,0,0,,0,0\n", "line 3: threat is '', expected 0 or 1"),
        (f"{HEADER}\n1,a,-1,0,0,0,0,0\n", "line 2: toxic is '-1', expected 0 or 1"),
        (f'{HEADER}\n1,"a,0,0,0,0,0,0\n', "line 2: damaged"),
    ],
)
def test_comments_that_do_not_fit_are_named(toxic, tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(toxic.DataError, match=rf"bad\.csv.*{message}"):
        list(toxic.read_comments(path))


def test_labels_of_which_nothing_can_be_learned_are_named(toxic):
    every, none = toxic.Comment("a", frozenset(toxic.LABELS)), toxic.Comment("b", frozenset())
    toxic.check({"train": [every, none], "dev": [none], "test": [none]})
    with pytest.raises(toxic.DataError, match="no comments for the dev part"):
        toxic.check({"train": [every, none], "dev": [], "test": [none]})
    for train in ([every], [none]):
        with pytest.raises(toxic.DataError, match="toxic fits all comments, or none"):
            toxic.check({"train": train, "dev": [none], "test": [none]})


# All


@pytest.mark.parametrize("project", PROJECTS)
def test_files_that_are_missing_or_damaged_are_named(project, tmp_path):
    module, name = script(project), PROJECTS[project][0]
    with pytest.raises(module.DataError, match=rf"neither {name} nor {name}\.xz is there"):
        module.find(tmp_path, name)
    whole = lzma.compress(b"Ann\tB-person\n" * 99)
    for path, content in ((tmp_path / name, b"Ann\xff"), (tmp_path / f"{name}.xz", whole[:-9])):
        path.write_bytes(content)
        assert module.find(tmp_path, name) == path
        with pytest.raises(module.DataError, match=rf"{path.name}: damaged"):
            module.read_text(path)
        path.unlink()


@pytest.mark.parametrize("project", PROJECTS)
def test_scripts_fail_with_one_line(project, tmp_path, monkeypatch):
    path = script(project).__file__
    monkeypatch.setattr(sys, "argv", [path, str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    assert re.fullmatch(r"✘ .*: neither .* is there", ended.value.code)  # Python prints it, and the status is 1
    assert not (tmp_path / "out").exists()


# Samples


def test_sample_of_sentences_is_whole(wnut17):
    sample = EXAMPLES / "ner_wnut17" / "sample"
    sentences = [list(wnut17.read_sentences(sample / name)) for name in PROJECTS["ner_wnut17"]]
    for part in sentences:
        assert {tag[2:] for sentence in part for tag in sentence.tags if tag != "O"} == TYPES
        assert any(set(sentence.tags) == {"O"} for sentence in part)
    texts = Counter(" ".join(sentence.words).lower() for part in sentences for sentence in part)
    assert max(texts.values()) == 1
    assert f"has {len(texts)} invented sentences" in (EXAMPLES / "ner_wnut17" / "README.md").read_text(encoding="utf-8")


def test_sample_of_questions_is_whole(banking77):
    sample = EXAMPLES / "textcat_banking77" / "sample"
    train, test = (list(banking77.read_questions(sample / name)) for name in PROJECTS["textcat_banking77"])
    assert Counter(question.category for question in train) == dict.fromkeys({one.category for one in test}, 20)
    texts = Counter(squeezed(question.text) for question in [*train, *test])
    assert max(texts.values()) == 1
    readme = (EXAMPLES / "textcat_banking77" / "README.md").read_text(encoding="utf-8")
    assert f"has {len(texts)} questions about six intents" in readme


def test_sample_of_comments_is_whole(toxic):
    sample = EXAMPLES / "textcat_toxic" / "sample"
    parts = toxic.read_parts(sample)
    for part in (parts["train"], parts["test"]):
        assert set().union(*(comment.labels for comment in part)) == set(toxic.LABELS)
        assert any(not comment.labels for comment in part)
    files = [toxic.read_rows(sample / name, ["id", toxic.TEXT]) for name in ("train.csv", "test.csv")]
    texts = Counter(squeezed(row[toxic.TEXT]) for rows in files for _, row in rows)
    assert max(texts.values()) == 1
    readme = (EXAMPLES / "textcat_toxic" / "README.md").read_text(encoding="utf-8")
    assert f"has {len(texts)} comments in the files and columns of Jigsaw's" in readme


def squeezed(text):
    return "".join(char for char in text.lower() if char.isalnum())


@pytest.mark.parametrize(("project", "folder"), ORIGINALS)
def test_samples_are_not_taken_from_the_data(project, folder, shared):
    module = script(project)
    found = []
    for parent in (EXAMPLES / project / "sample", shared / "data" / folder):
        texts = [module.read_text(module.find(parent, name)) for name in PROJECTS[project]]
        if project == "ner_wnut17":
            words = [[line.split("\t")[0] for line in text.split("\n")] for text in texts]
            found.append({squeezed(part) for one in words for part in "\n".join(one).split("\n\n")} - {""})
        else:
            found.append({squeezed(row[0]) for text in texts for row in csv.reader(text.splitlines()[1:])})
    assert len(found[1]) > 5_000
    assert not found[0] & found[1]


# project.yml


@pytest.mark.parametrize("project", PROJECTS)
def test_project_names_what_is_there(project, tmp_path):
    folder = copy_of(project, tmp_path / project)
    config = load_project_config(folder)  # checks it, and makes its directories
    here = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    for name in config["workflows"]["all"]:
        (command,) = [command for command in config["commands"] if command["name"] == name]
        assert set(command.get("deps", [])) <= here, name
        for line in command["script"]:
            python, *arguments = shlex.split(line)
            assert python == "python"
            assert arguments[0] == "-m" or arguments[0] in command["deps"]
        here |= set(command["outputs"])
    assert {command["name"] for command in config["commands"]} == set(config["workflows"]["all"])


@pytest.mark.parametrize("project", PROJECTS)
def test_what_runs_leave_is_ignored(project):
    raw = srsly.read_yaml(EXAMPLES / project / "project.yml")
    ignored = (EXAMPLES / project / ".gitignore").read_text().split()
    assert {*(f"{name}/" for name in raw["directories"]), "assets/", "project.lock"} == set(ignored)
    outputs = {output.partition("/")[0] for command in raw["commands"] for output in command["outputs"]}
    assert outputs == set(raw["directories"])


@pytest.mark.parametrize("project", PROJECTS)
def test_readme_names_variables_that_exist(project):
    variables = srsly.read_yaml(EXAMPLES / project / "project.yml")["vars"]
    readme = (EXAMPLES / project / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--vars\.(\w+)", readme)) <= set(variables)
    for target in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (EXAMPLES / project / target).exists(), target


@pytest.mark.parametrize(("project", "folder"), ORIGINALS)
def test_assets_are_the_data_that_is_described(project, folder, shared):
    source = (shared / "data" / folder / "SOURCE.txt").read_text(encoding="utf-8")
    repository, commit = re.search(r"github (\S+) @ ([0-9a-f]{40})", source).groups()
    assets = srsly.read_yaml(EXAMPLES / project / "project.yml")["assets"]
    assert [asset["dest"] for asset in assets] == [f"assets/{name}" for name in PROJECTS[project]]
    for asset in assets:
        name = Path(asset["dest"]).name
        assert re.fullmatch(
            rf"https://raw\.githubusercontent\.com/{repository}/{commit}/(banking_data/)?{name}", asset["url"]
        )
        content = lzma.decompress((shared / "data" / folder / f"{name}.xz").read_bytes())
        assert hashlib.md5(content).hexdigest() == asset["checksum"]
    readme = (EXAMPLES / project / "README.md").read_text(encoding="utf-8")
    assert commit in readme
    assert "Creative Commons Attribution 4.0" in readme


def test_all_of_the_data_is_converted(wnut17, banking77, shared, tmp_path, monkeypatch):
    tweets = convert(wnut17, monkeypatch, shared / "data/ner/wnut17", tmp_path / "ner")
    assert [len(tweets[part]) for part in PARTS] == [3_394, 1_009, 1_287]
    assert [sum(len(doc.ents) for doc in tweets[part]) for part in PARTS] == [1_975, 836, 1_079]
    questions = convert(banking77, monkeypatch, shared / "data/textcat/banking77", tmp_path / "textcat")
    assert [len(questions[part]) for part in PARTS] == [8_977, 1_026, 3_080]
    assert {len(doc.cats) for doc in questions["test"]} == {77}


@pytest.mark.parametrize("project", PROJECTS)
def test_commands_of_the_readme_that_change_settings_are_taken(project, tmp_path):
    folder = copy_of(project, tmp_path / "project")
    commands = re.findall(r"^python -m (spacy project run all .*--vars.*)$", (folder / "README.md").read_text(), re.M)
    assert commands
    for command in commands:
        arguments = [sys.executable, "-m", *shlex.split(command), "--dry"]
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"--vars.data (\S+)", command)[1] in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("project", "component", "metric", "least"),
    [
        ("ner_wnut17", "ner", "ents_f", 0.1),
        ("textcat_banking77", "textcat", "cats_micro_f", 0.3),
        ("textcat_toxic", "textcat_multilabel", "cats_macro_auc", 0.8),
    ],
)
def test_project_runs_on_its_sample(project, component, metric, least, tmp_path):
    folder = copy_of(project, tmp_path / "a project")
    printed = run_all(folder, tmp_path)
    assert "✔ Saved results to metrics/test.json" in printed
    assert json.loads((folder / "metrics" / "test.json").read_bytes())[metric] > least
    nlp = spacy.load(folder / "training" / "model-best")
    assert nlp.pipe_names == ["sentencizer", "elmo", component]
    assert len(nlp.get_pipe(component).labels) == 6
    again = run_all(folder, tmp_path)
    assert re.findall(r"Skipping '(\w+)'", again) == ["convert", "train", "evaluate"]


def run_all(folder, elsewhere):
    """Run the project unchanged except for fewer steps. Returns its output."""
    command = [sys.executable, "-m", "spacy", "project", "run", "all", folder]
    steps = ["--vars.max_steps", "100", "--vars.warmup_steps", "20"]
    done = subprocess.run([*command, *steps], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
