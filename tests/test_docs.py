"""The README's examples run unchanged, and the things that it names exist."""

import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import spacy
from spacy.schemas import ConfigSchemaTraining
from spacy.tokens import DocBin, Span
from spacy.util import load_model_from_config, registry
from thinc.api import Config

from helpers.shell import run_in_shell
from spacy_elmo.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples(page):
    """Return the complete code blocks of a page. Others are fragments of a session."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL)
    return [block for block in blocks if block.startswith(("import spacy\n", "from spacy_elmo"))]


RUN = """
import json, sys
for number, block in enumerate(json.load(sys.stdin)):
    exec(compile(block, f"example {number}", "exec"), {"__name__": "__main__"})
"""


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_whole_examples_run(page):
    """Run the examples of a page one after the other in one process, each with fresh names."""
    command = [sys.executable, "-W", "error::FutureWarning", "-c", RUN]
    subprocess.run(command, input=json.dumps(examples(page)), text=True, check=True)


def saving_block():
    """Return the example that saves a pipeline under another name and then renames it."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return next(block for block in blocks if "nlp.to_disk(new)" in block)


def test_saving_under_another_name_keeps_the_new_pipeline_and_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(ROOT / "tests" / "data" / "tiny_2l_skip")}})
    versions = {}
    for version in ("1", "2", "3"):
        nlp.meta["version"] = version
        exec(saving_block(), {"nlp": nlp})
        versions = {path.name: spacy.load(path).meta["version"] for path in tmp_path.iterdir()}
    assert versions == {"pipeline": "3", "pipeline.old": "2"}


def test_saving_under_another_name_goes_on_after_each_interruption(tmp_path, monkeypatch):
    """Before each line that changes a file: a whole pipeline is left, the old one or the new one."""
    monkeypatch.chdir(tmp_path)
    nlp = spacy.blank("en")
    block = saving_block()
    exec(block, {"nlp": nlp})
    for place in re.findall(r"^ *(\w+\.(?:rename|rmtree|to_disk)\(.*\))", block, re.MULTILINE):
        nlp.meta["version"] += "1"
        with contextlib.suppress(KeyboardInterrupt):
            exec(block.replace(place, "raise KeyboardInterrupt", 1), {"nlp": nlp})
        found = spacy.load("pipeline" if Path("pipeline").exists() else "pipeline.old")
        assert nlp.meta["version"].startswith(found.meta["version"])
        exec(block, {"nlp": nlp})
        assert spacy.load("pipeline").meta["version"] == nlp.meta["version"]


README = ROOT / "README.md"
BLOCKS = re.findall(r"```(?:bash|python)\n(.*?)```", README.read_text(encoding="utf8"), re.DOTALL)
NOT_RUN = {  # what a block begins with, and why it is not run here
    "make demo": "it makes an environment, from an index of packages; CI's jobs install by themselves",
    "pip install torch": "likewise",
    "python -m spacy elmo download": "it needs the network",
}
SHORTENED = {  # whole trainings: two steps show that the command is right
    "spacy train": "--training.max_steps 2 --training.eval_frequency 1",
    "elmo pretrain": "--training.max_steps 2",
}


def test_each_block_of_the_readme_is_run_or_there_is_a_reason():
    left = [block for block in BLOCKS if block not in [*examples(README), *commands_of_readme()]]
    assert {next((start for start in NOT_RUN if block.startswith(start)), block) for block in left} == set(NOT_RUN)


def commands_of_readme():
    """Return the README's blocks that train."""
    return [block for block in BLOCKS if any(command in block for command in SHORTENED)]


@pytest.fixture
def workplace(tmp_path):
    """Make a directory with the files that the README's commands name: raw text, and Docs to train and to evaluate
    on."""
    questions = (ROOT / "examples" / "pretrain_domain" / "banking.csv").read_text(encoding="utf8").splitlines()[1:401]
    (tmp_path / "raw_text").mkdir()
    (tmp_path / "raw_text" / "questions.txt").write_text("\n\n".join(questions), encoding="utf8")
    nlp = spacy.blank("en")
    doc = nlp("He flew to Leeds.")
    doc.ents = [Span(doc, 3, 4, "location")]
    for name in ("train", "dev"):
        DocBin(docs=[doc] * 4).to_disk(tmp_path / f"{name}.spacy")
    return tmp_path


def shortened(line):
    return next((f"{line.partition('  #')[0]} {more}" for command, more in SHORTENED.items() if command in line), line)


@pytest.mark.parametrize("block", commands_of_readme(), ids=["train", "pretrain"])
def test_commands_of_the_readme_run(block, workplace):
    run_in_shell("\n".join(map(shortened, block.splitlines())), workplace)


SETTINGS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```ini\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL))
]


@pytest.mark.parametrize("block", SETTINGS)
def test_settings_fit_into_the_generated_config(block):
    config = Config().from_disk(ROOT / "spacy_elmo" / "configs" / "ner.cfg")
    names = [name.split(".") for name in re.findall(r"^\[(.+)\]$", block, re.MULTILINE)]
    above = dict.fromkeys(".".join(name[:n]) for name in names for n in range(1, len(name)))
    missing = "".join(f"[{name}]\n" for name in above if f"[{name}]\n" not in block)
    part = Config().from_str(missing + block, interpolate=False)
    nlp = load_model_from_config(config.merge(part), auto_fill=True, validate=True)
    registry.resolve(nlp.config["training"], schema=ConfigSchemaTraining)


@pytest.mark.parametrize("block", SETTINGS)
def test_listeners_in_settings_have_the_width_of_the_bundled_model(block):
    width = Config().from_disk(ROOT / "spacy_elmo" / "configs" / "ner.cfg")["components"]["ner"]["model"]["tok2vec"]
    found = re.findall(r"spacy-elmo\.ElmoListener\.v1\"\nwidth = (\d+)", block)
    assert {int(number) for number in found} <= {width["elmo"]["width"]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf8")):
        assert (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def quickstart():
    """The names of the script, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    return names, printed.getvalue()


SENSES_ROW = re.compile(r"^(\w+) +(\w.*?) +(-?[\d.]+) +(-?[\d.]+) +(\d) of 8$", re.MULTILINE)
SENSES_TOTAL = re.compile(r"^All 201 words: ([\d.]+)% are nearer", re.MULTILINE)


def test_quickstart_shows_the_first_words_of_the_senses_list_and_the_score_over_all(quickstart):
    names, printed = quickstart
    listed = [line.split("\t")[0] for line in names["SENSES"].read_text("utf8").splitlines() if line[0] != "#"][1::2]
    assert [row[0] for row in SENSES_ROW.findall(printed)] == listed[:10]
    assert float(SENSES_TOTAL.search(printed)[1]) > 60


def test_quickstart_finds_right_spellings(quickstart):
    names, printed = quickstart
    for wrong, known in dict(zip(names["MISSPELLED"], names["KNOWN"], strict=False)).items():
        assert re.search(rf"{wrong} +-> {known} ", printed), wrong


def test_readme_shows_what_quickstart_prints(quickstart):
    printed, shown = quickstart[1], (ROOT / "README.md").read_text(encoding="utf8")
    assert float(SENSES_TOTAL.search(shown)[1]) == pytest.approx(float(SENSES_TOTAL.search(printed)[1]), abs=0.15)
    rows = {row[0]: row for row in SENSES_ROW.findall(printed)}
    rows_shown = SENSES_ROW.findall(shown)
    assert rows_shown
    for word, senses, same, different, nearer in rows_shown:
        assert (senses, nearer) == (rows[word][1], rows[word][4])
        assert [float(same), float(different)] == pytest.approx([float(n) for n in rows[word][2:4]], abs=0.011)


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
SOURCES = [path.relative_to(ROOT / "spacy_elmo") for path in (ROOT / "spacy_elmo").rglob("*.py")]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"[\w/]+\.py\b", ARCHITECTURE))))
def test_architecture_names_files_as_they_are(name):
    assert [path for path in SOURCES if f"/{path.as_posix()}".endswith(f"/{name}")], name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+)/`", ARCHITECTURE))))
def test_architecture_names_folders_as_they_are(name):
    assert (ROOT / "spacy_elmo" / name).is_dir()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Za-z_.]+)`(?! as its)", ARCHITECTURE))))
def test_architecture_names_things_that_are_in_the_code(name):
    """Checks classes, functions and settings. For files and folders see above."""
    last = name.split(".")[-1]
    if last in ("py", "toml") or not name.strip("."):
        return
    assert any(re.search(rf"\b{last}\b", (ROOT / "spacy_elmo" / path).read_text(encoding="utf8")) for path in SOURCES)


def test_architecture_shows_every_file_of_the_pipeline():
    """A new file must be added to the page, too."""
    missing = [path.name for path in SOURCES if path.parent.name == "pipeline" and f"{path.name}" not in ARCHITECTURE]
    assert set(missing) <= {"__init__.py"}


@pytest.mark.parametrize("file", ["CITATION.cff", "docs/citing.md", "CHANGELOG.md"])
def test_the_version_is_the_same_everywhere(file):
    found = re.search(r'(?m)(?:^version: |version = "|^## \[)([\d.]+)', (ROOT / file).read_text(encoding="utf8"))
    assert found is not None
    assert found[1] == VERSION
