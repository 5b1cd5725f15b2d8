"""Make the raw text that en_elmo_sm is trained on: `python clean.py PRETRAINING OUT [--exclude FILE ...]`.

In: the folder of licensed texts, one folder a source, `.txt.xz` files of one paragraph a line.
Out: `OUT/<source>.txt`, one file a source: UTF-8, LF, one paragraph a line, one blank line between documents.
The same input gives the same bytes. A table of what was kept is printed.
"""

import argparse
import lzma
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Document = list[str]  # its paragraphs

# Authors who died in 1956 or later: not yet free where copyright lasts for life and 70 years.
NOT_FREE = (
    "agatha-christie",
    "algis-budrys",
    "apsley-cherry-garrard",
    "bertrand-russell",
    "dorothy-l-sayers",
    "e-m-forster",
    "ernest-hemingway",
    "frederik-pohl",
    "fritz-leiber",
    "h-beam-piper",
    "harry-harrison",
    "mack-reynolds",
    "p-g-wodehouse",
    "philip-k-dick",
    "poul-anderson",
    "robert-sheckley",
    "upton-sinclair",
    "w-e-b-du-bois",
    "w-somerset-maugham",
)
CAPPED = ("edward-gibbon", "plato", "samuel-pepys")  # archaic text by the million words
CAP = 200_000  # words of each of them

INVISIBLE = re.compile("[\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\uffff\ue000-\uf8ff]")
BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")  # white space and control characters
WORD = re.compile(r"[^\W_]+")
TOKEN = re.compile(r"\w+|[^\w\s]")
SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*$")
MARKUP = re.compile(r"</?[A-Za-z!]|[{}|\\]|https?:|www\.|\[\[|&[a-z]+;")
# What is left where a template, a cross-reference, a quoted title, a formula or a measure was dropped:
# "covers . The", "see , is", "add. illustrates", "film "" won", "all formula_3 are", "up to wide", "an area of and".
HOLE = re.compile(
    r"(?<=[\w)”’\"]) [.,;](?=\s|$)|(?:^|\s)(?:\"\"|“”)(?=\W|$)|(?:formula|codice)_\d"
    r"|[a-z]\. (?:shows?|illustrates?|lists|presents|depicts|displays|summarizes|provides|gives|compares)\b"
    r"|\b(?:up to|about|around|over|approximately|roughly|measures|by|and|to|is|are) (?:wide|tall|thick|away from)\b"
    r"|\b(?:area|length|height|width|diameter|distance|depth|altitude|elevation|weight) of (?:and|with|in|at|from)\b"
)
EMPTY_BRACKETS = re.compile(r"\s*[(\[](?:\b(?:see|also|and|or|in|to|refer|pronounced)\b|[\s,;:–—-])*[)\]]")
NEXT_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z\"“])")
OPENING_HOLE = re.compile(r"(?<=[(\[])(?:\s*[,;:])+\s*")  # "(; born 1997)", where a pronunciation was


def normalise(line: str) -> str:
    """Return the line in NFC, without control or invisible characters, each run of white space as one space."""
    return BLANK.sub(" ", INVISIBLE.sub("", unicodedata.normalize("NFC", line))).strip()


def blocks(path: Path) -> Iterator[Document]:
    """Yield each run of lines that are not blank, normalised."""
    block: Document = []
    with lzma.open(path, "rt", encoding="utf8", newline="\n") as file:
        for line in map(normalise, file):
            if line:
                block.append(line)
            elif block:
                yield block
                block = []
    if block:
        yield block


def folder_blocks(folder: Path) -> Iterator[Document]:
    """Yield the blocks of each file of the folder, the files in the order of their names."""
    for path in sorted(folder.glob("*.txt.xz")):
        yield from blocks(path)


def is_prose(text: str, shortest: int = 40) -> bool:
    """Return whether text is whole sentences: not a heading, list item, definition, table row, formula or markup."""
    first = text.lstrip("\"'“‘(¿¡")[:1]
    return (
        len(text) >= shortest
        and first.isalnum()
        and not first.islower()
        and SENTENCE_END.search(text) is not None
        and MARKUP.search(text) is None
        and len(re.findall(r"[^\w\s]|[\d_]", text)) < len(text) / 5  # figures, formulas, scores
        and len(re.findall(r"[^\x00-\x7f]", text)) < len(text) / 5  # another script
    )


class Unseen:
    """Says of a paragraph whether it is the first of its kind; figures do not count (bots' stubs, editions)."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, text: str) -> bool:
        """Return whether no earlier paragraph was the same but for figures and capitals."""
        before = len(self.seen)
        self.seen.add(re.sub(r"\d+", "0", text.lower()))
        return len(self.seen) > before


def without_brackets(text: str) -> str:
    """Return text without the empty brackets that dropped templates and cross-references leave."""
    return OPENING_HOLE.sub("", EMPTY_BRACKETS.sub("", text))


def without_holes(text: str) -> str:
    """Return text without empty brackets, and without the sentences that have a hole."""
    text = without_brackets(text)
    if HOLE.search(text):
        return " ".join(sentence for sentence in NEXT_SENTENCE.split(text) if not HOLE.search(sentence))
    return text


def enwiki_2021(folder: Path) -> Iterator[Document]:
    """Articles without titles, headings, lists, tables, sentences with a hole, and stubs that a bot repeats.

    The source has every article twice; the second has nothing new and disappears.
    """
    unseen = Unseen()
    for _title, *lines in folder_blocks(folder):
        texts = map(without_holes, lines)
        yield [
            text
            for text in texts
            # Headings end in "." here, so a sentence must also have eight words.
            if is_prose(text) and text.count(" ") >= 7 and unseen(text)
        ]


def enwiki_2014_core(folder: Path) -> Iterator[Document]:
    """Every article in its order without its title, else as it is: one article in a hundred is held out by number."""
    for _title, *texts in folder_blocks(folder):
        yield texts


def standardebooks(folder: Path) -> Iterator[Document]:
    """Chapters of the books that are free everywhere, without headings; the longest archaic works are capped."""
    for path in sorted(folder.glob("*.txt.xz")):
        if path.name.startswith(NOT_FREE):
            continue
        words = 0
        for lines in blocks(path):
            # Headings and numbers have no lower case or no punctuation at their end; lines of verse may have a comma.
            yield [line for line in lines if re.search(r"[a-z]", line) and re.search(r"[^\w\s]$", line)]
            words += sum(len(line.split()) for line in lines)
            if path.name.startswith(CAPPED) and words >= CAP:
                break


def openstax(folder: Path) -> Iterator[Document]:
    """Modules without objectives, glossaries, exercises' options, references, teachers' notes; no repeated text."""
    debris = re.compile(
        r"^(?:\(?[A-Za-z]\)|[A-Za-z]\.|\d+[a-z]?[.)])\s"  # "(a) ...", "b. ...", "77. ...": options and answers
        r"|_{3}|^(?:True|False)\b|[Ww]hich (?:one )?of the following|^Data from\b|^\["
        r"|^(?:Use this|This) (?:Narrative|Primary Source|Decision Point|Point-Counterpoint|Lesson|Inquiry)\b"
        r"|^(?:Essential Knowledge|Learning Objective|Enduring Understanding)\b|Handout [A-Z]\b|OpenStax|^Example:"
        r"|(?:(?<!\w)\w ){4}|[=≈∑∝∫√→⇌].*[=≈∑∝∫√→⇌]"
        r"|^[^\s,]+, [A-Z][\w.-]*(?: [A-Z][\w.-]*)*[.,] .*\b(?:1[5-9]|20)\d\d[a-z]?\."  # "Wood, Gordon. 2009. Empire"
        r"|: [^.:]{3,60}, (?:1[5-9]|20)\d\d\.$"  # "... Oxford: Oxford University Press, 2009."
        r"|[Rr]etrieved (?:from|[A-Z])|[Aa]ccessed [A-Z]"
    )
    unseen = Unseen()
    for lines in folder_blocks(folder):
        if "an OpenStax resource" in " ".join(lines[:9]):  # the preface, alike in every book
            continue
        texts = map(without_holes, lines)
        yield [text for text in texts if is_prose(text) and not debris.search(text) and unseen(text)]


def sgd_dialogues(folder: Path) -> Iterator[Document]:
    """Three of every eight dialogues: they repeat each other, and a million tokens are enough."""
    for number, turns in enumerate(folder_blocks(folder)):
        if number * 3 % 8 < 3:
            yield turns


def techdocs(folder: Path) -> Iterator[Document]:
    """Pages of documentation: sentences only, also those that introduce code; no code, no boilerplate."""
    code = re.compile(r"=|[$@]\w|::|;$|\w\(\w*\)[.;]\w|[(\[]\)\[|%|`|--\w|^(?:Type|Default|Applies to|Example):")
    unseen = Unseen()
    for lines in folder_blocks(folder):
        texts = (re.sub(r"^\[!?[A-Za-z]+\] ?", "", line) for line in lines)  # "[!NOTE] "
        yield [
            text
            for text in texts
            if is_prose(re.sub(r":$", ".", text)) and not HOLE.search(text) and not code.search(text) and unseen(text)
        ]


def plos(folder: Path) -> Iterator[Document]:
    """Articles, with the commas closed up that dropped citations leave ("and LNs , , rapidly")."""
    for lines in folder_blocks(folder):
        texts = (re.sub(r"[ ,;–]+(?=[.;](?: |$))", "", without_brackets(line)) for line in lines)
        texts = (re.sub(r",*(?: (?:[,;]|–,)|,,)[ ,;–]*(?= )", ",", text) for text in texts)
        texts = (re.sub(r"(?<!\.)\.\.(?= |$)", ".", text) for text in texts)  # "et al.."
        yield [text for text in texts if is_prose(text)]


def us_presidential(folder: Path) -> Iterator[Document]:
    """Speeches, a new one at each title or salutation, without headings and [Applause]; continued lines are joined."""
    border = re.compile(
        r"(?:PRESIDENT [A-Z. ]+'S|ADDRESS|STATE OF THE UNION|SPECIAL MESSAGE) .*[A-Z]{3}"
        r"|(?:My |Friends and )?[Ff]ellow[- ](?:[Cc]itizens|[Cc]ountrymen)|My Countrymen"
        r"|(?:Mr\.|Madam|Vice President|Senator|Chief Justice) [A-Z].*(?:Chief Justice|Speaker|Congress|President)"
    )
    speech: Document = []
    for line in (line for block in folder_blocks(folder) for line in block):
        # Big5 read as Latin-1: the quotes and dashes of a few speeches.
        text = normalise(re.sub(r"¡[ -~\xa1-\xfe]", lambda pair: pair[0].encode("latin-1").decode("big5"), line))
        text = re.sub(r" ?[(\[](?:applause|laughter|standing)[^)\]]*[)\]]", "", text, flags=re.IGNORECASE)
        text = re.sub(r"^.{,300}White House photo by \w+ \w+ ", "", text)  # a picture's caption
        if border.match(text) and sum(map(len, speech)) > 3000:
            yield speech
            speech = []
        if speech and (text[:1].islower() or text.startswith("--")):
            speech[-1] += " " + text
        elif re.search(r"[a-z]{2}.*[.!?:;,—-][\"'”’)\]]*$", text) and len(text.split()) > 3:
            speech.append(text)
    yield speech


def expository(folder: Path) -> Iterator[Document]:
    """Texts that are clean but for list items and formulaic lines, and those that repeat."""
    unseen = Unseen()
    for lines in folder_blocks(folder):
        yield [line for line in lines if is_prose(line) and "The World Factbook" not in line and unseen(line)]


SOURCES: dict[str, tuple[str, Callable[[Path], Iterator[Document]]]] = {
    "enwiki-2021": ("enwiki-2021-shard", enwiki_2021),
    "enwiki-2014-core": ("enwiki-2014-core", enwiki_2014_core),
    "standardebooks": ("standardebooks-cc0", standardebooks),
    "openstax": ("openstax-ccby", openstax),
    "sgd-dialogues": ("sgd-dialogues", sgd_dialogues),
    "techdocs": ("techdocs", techdocs),
    "plos": ("plos-ccby", plos),
    "us-presidential": ("us-presidential-pd", us_presidential),
    "historyatstate": ("historyatstate-pd", expository),
    "cia-factbook": ("cia-factbook-pd", expository),
}
# An article left without a paragraph stays as this line, so that the articles after it keep their numbers.
NUMBERED, PLACE = "enwiki-2014-core", "…"


class Overlap:
    """Finds paragraphs that share 13 words in a row with texts kept for evaluation, however either is tokenized."""

    WINDOW, ANCHOR = 13, 7  # a window holds a whole anchor that starts at a multiple of 7: 13 >= 7 + 7 - 1

    def __init__(self, paths: Iterable[Path]) -> None:
        self.windows: set[str] = set()
        self.anchors: set[str] = set()
        for path in paths:
            with lzma.open(path, "rt", encoding="utf8") if path.suffix == ".xz" else path.open(encoding="utf8") as file:
                text = file.read()
            for part in text.split("<unk>"):
                words = self.words(part)
                self.windows.update(self.grams(words, self.WINDOW))
                self.anchors.update(self.grams(words, self.ANCHOR))

    @staticmethod
    def words(text: str) -> list[str]:
        """Return the lower-cased runs of letters and digits; "do n't", "don't" and "don’t" are all "don t"."""
        return WORD.findall(text.lower().replace(" n't", "n't"))

    @staticmethod
    def grams(words: list[str], length: int, step: int = 1) -> Iterator[str]:
        """Yield each run of that many words that starts at a multiple of step."""
        return (" ".join(words[i : i + length]) for i in range(0, len(words) - length + 1, step))

    def __contains__(self, text: str) -> bool:
        """Return whether text has a window of the evaluation texts."""
        if not self.anchors:
            return False
        words = self.words(text)
        if self.anchors.isdisjoint(self.grams(words, self.ANCHOR, self.ANCHOR)):
            return False
        return not self.windows.isdisjoint(self.grams(words, self.WINDOW))


def main() -> None:
    """Clean every source and print a row for each: documents, paragraphs, tokens, paragraphs left out by --exclude."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretraining", type=Path, help="the folder of licensed texts")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="evaluation texts, plain or .xz")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    overlap = Overlap(args.exclude)
    print(f"{'source':18}{'documents':>10}{'paragraphs':>11}{'tokens':>12}{'excluded':>9}")
    for source, (folder, clean) in SOURCES.items():
        documents = paragraphs = tokens = excluded = 0
        with (args.out / f"{source}.txt").open("w", encoding="utf8", newline="\n") as file:
            for document in clean(args.pretraining / folder):
                kept = [text for text in document if text not in overlap]
                excluded += len(document) - len(kept)
                if not kept and source == NUMBERED:
                    kept = [PLACE]
                if kept:
                    file.write("\n" * (documents > 0) + "\n".join(kept) + "\n")
                    documents += 1
                    paragraphs += len(kept)
                    tokens += sum(len(TOKEN.findall(text)) for text in kept)
        print(f"{source:18}{documents:10,}{paragraphs:11,}{tokens:12,}{excluded:9,}", flush=True)


if __name__ == "__main__":
    main()
