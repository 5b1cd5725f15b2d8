import importlib
import io
import lzma
import tarfile
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[2] / "training" / "en_elmo_sm"
EVALUATION = {
    "heldout/masc/masc.txt.xz": "# masc/a.txt\nThe Gore- Bush debate did n't end when it was\nplanned , he said .\n",
    "heldout/wikitext-2/wiki.test.tokens.xz": " \n = Title = \n A guest @-@ starring one <unk> for 1 @,@ 000 days . \n",
    "ner/uner-ewt/dev.iob2.xz": "# sent_id = 1\n# text = Where is it?\n1\tWhere\tO\n\n# text = It is here.\n1\tIt\n",
    "ner/wnut17/dev.conll.xz": "Stabilized\tO\nor\tO\nnot\tO\n\t\n\nOk\tO\n",
    "pos/ud-english-ewt/dev.conllu.xz": "# text = From the AP.\n1\tFrom\n",
    "textcat/banking77/test.csv.xz": 'text,category\n"Where, then, is it?",lost\n',
    "textcat/hate-offensive/labeled_data.csv.xz": ",class,tweet\n0,2,you &amp; me\n",
    "textcat/scicite/dev.txt.xz": '{"text": "We follow them [3].", "label": "method"}\n',
    "textcat/sms-spam/SMS.xz": "ham\tGo there\t\n",
}


@pytest.fixture(scope="module")
def import_training():
    """Return a function that imports a module from training/, which makes the bundled model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        yield importlib.import_module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make a folder with a little text for every evaluation set."""
    folder = tmp_path_factory.mktemp("data")
    for name, text in EVALUATION.items():
        write_xz(folder / name, text)
    packed = lzma.compress(b'{"sentence_good": "Ann does smile.", "sentence_bad": "Ann do smile."}\n')
    (folder / "lm").mkdir()
    with tarfile.open(folder / "lm" / "blimp.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo("blimp/a.jsonl.xz")
        member.size = len(packed)
        archive.addfile(member, io.BytesIO(packed))
    return folder


@pytest.fixture(scope="module")
def write():
    """Return a function that writes a compressed text file and its folders."""
    return write_xz


def write_xz(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf8") as file:
        file.write(text)
