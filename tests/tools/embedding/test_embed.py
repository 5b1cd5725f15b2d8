import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.embedding import LINES, REDUCED, SENTENCES, contents
from spacy_elmo.cli import elmo_cli
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools import embed as tool
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.text import Text


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("layers", REDUCED, ids=str)
def test_layers_are_those_of_encode(text, model, tmp_path, expected, layers, float16):
    report = embed_file(text, tmp_path / "out.h5", model=model, layers=layers, float16=float16, forget_sentences=True)
    found = contents(tmp_path / "out.h5")
    assert found.keys() == {str(number) for number in range(len(LINES))}
    for number, encoded in enumerate(expected):
        assert found[str(number)].dtype == (np.float16 if float16 else np.float32)
        np.testing.assert_allclose(found[str(number)], REDUCED[layers](encoded), rtol=0, atol=2e-3 if float16 else 1e-6)
    assert (report.lines, report.tokens, report.width) == (len(LINES), sum(map(len, SENTENCES)), 32)


@pytest.mark.parametrize("layers", ["3", "-1", "tip", 7])
def test_layer_that_is_none_is_an_error(text, model, tmp_path, layers):
    with pytest.raises(ElmoError, match="from 0 to 2"):
        embed_file(text, tmp_path / "out.h5", model=model, layers=layers)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_mean_is_another_word_for_average(text, model, tmp_path):
    reports = [embed_file(text, tmp_path / f"{word}.npz", model=model, layers=word) for word in ("mean", "average")]
    assert (tmp_path / "mean.npz").read_bytes() == (tmp_path / "average.npz").read_bytes()
    assert "the average of the layers" in tool.summary("mean.npz", reports[0])


def test_layers_side_by_side_are_refused_before_the_text_is_read(text, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Text, "survey", None)
    with pytest.raises(ElmoError, match=r'layers is \'concat\', expected .*; perhaps you want "all"'):
        embed_file(text, tmp_path / "out.h5", model=model, layers="concat")


def test_page_runs_from_top_to_bottom_and_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "embedding.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(bash|python)\n(.*?)```(?:\n\n```\n(.*?)```)?", page, re.DOTALL)
    assert len(blocks) > 6
    for language, block, shown in blocks:
        if "--engine ray" in block:
            continue  # has separate tests
        if language == "python":
            exec(block, {})
        else:
            run_in_shell(block)
        printed, said = capsys.readouterr()
        assert without_sizes(printed + "".join(re.findall("✘.*\n", said))) == without_sizes(shown)


def without_sizes(text):
    """Remove sizes, which depend on the versions of the packages that write."""
    return re.sub(r"[\d.]+ [kM]B", "", text)


def run_in_shell(block):
    """Run the command of spacy-elmo in this process."""
    before, command, arguments = block.rpartition("python -m spacy elmo ")
    assert command
    subprocess.run(["bash", "-ec", before], check=True)
    with pytest.raises(SystemExit):
        elmo_cli(shlex.split(arguments))


def test_package_that_is_missing_is_named_before_any_work(text, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ElmoError, match=r"spacy-elmo\[arrow\]"):
        embed_file(text, tmp_path / "out.parquet", model=model)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ElmoError, match=r"spacy-elmo\[ray\]"):
        embed_file(text, tmp_path / "out.h5", model=model, engine="ray")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


MEASURE = """
import resource, sys
from spacy_elmo.tools.embed import embed_file
embed_file(sys.argv[1], sys.argv[2], model=sys.argv[3], layers="top", max_batch_tokens=1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures in the units of Linux")
def test_memory_does_not_grow_with_the_text(tmp_path, model):
    pick = random.Random(0)
    words = [f"word{n}" for n in range(500)]
    peaks = []
    for n_lines in (4_000, 40_000):
        path = tmp_path / f"{n_lines}.txt"
        path.write_text("".join(" ".join(pick.choices(words, k=3)) + "\n" for _ in range(n_lines)))
        call = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"{n_lines}.h5"), model]
        peaks.append(int(subprocess.run(call, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < peaks[0] + 25  # MB; the vectors take 15 MB, and the lengths of HDF5's own tables the rest
