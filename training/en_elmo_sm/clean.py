"""Remove what is not running text from the documents of the licensed texts, with a function for each source.

A document is the list of its paragraphs. overlap.py removes repetitions later.
"""

import lzma
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

Document = list[str]  # its paragraphs
Documents = Iterable[Document]

INVISIBLE = re.compile("[\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\uffff\ue000-\uf8ff]")
BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")  # white space and control characters
SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*$")
MARKUP = re.compile(r"</?[A-Za-z!]|[{}|\\]|https?:|www\.|\[\[|&[a-z]+;")
# What remains after a template, a cross-reference, a quoted title, a formula or a measure was dropped:
# "covers . The", "see , is", "add. illustrates", "film "" won", "all formula_3 are", "up to wide", "an area of and".
HOLE = re.compile(
    r"(?<=[\w)”’\"]) [.,;](?=\s|$)|(?:^|\s)(?:\"\"|“”)(?=\W|$)|(?:formula|codice)_\d"
    r"|[a-z]\. (?:shows?|illustrates?|lists|presents|depicts|displays|summarizes|provides|gives|compares)\b"
    r"|\b(?:up to|about|around|over|approximately|roughly|measures|by|and|to|is|are) (?:wide|tall|thick|away from)\b"
    r"|\b(?:area|length|height|width|diameter|distance|depth|altitude|elevation|weight) of (?:and|with|in|at|from)\b"
)
EMPTY_BRACKETS = re.compile(r"\s*[(\[](?:\b(?:see|also|and|or|in|to|refer|pronounced)\b|[\s,;:–—-])*[)\]]")
NEXT_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z\"“])")
OPENING_HOLE = re.compile(r"(?<=[(\[])(?:\s*[,;:])+\s*")  # "(; born 1997)", after a dropped pronunciation


def normalise(line: str) -> str:
    """Return the line in NFC, without control or invisible characters, each run of white space as one space."""
    return BLANK.sub(" ", INVISIBLE.sub("", unicodedata.normalize("NFC", line))).strip()


def read(path: Path, advance: Callable[[int], object]) -> Iterator[Document]:
    """Yield each run of non-blank lines, normalised; call `advance` with the number of packed bytes read."""
    document: Document = []
    with path.open("rb") as packed, lzma.open(packed, "rt", encoding="utf8", newline="\n") as file:
        place = 0
        for line in file:
            if text := normalise(str(line)):
                document.append(text)
            elif document:
                yield document
                document = []
                advance(packed.tell() - place)
                place = packed.tell()
        advance(packed.tell() - place)
    if document:
        yield document


def is_prose(text: str, shortest: int = 40) -> bool:
    """Return whether the text has whole sentences: no heading, list item, definition, table row, formula or markup."""
    first = text.lstrip("\"'“‘(¿¡")[:1]
    return (
        len(text) >= shortest
        and first.isalnum()
        and not first.islower()
        and SENTENCE_END.search(text) is not None
        and MARKUP.search(text) is None
        and len(re.findall(r"[^\w\s]|[\d_]", text)) < len(text) / 5  # numbers, formulas, scores
        and len(re.findall(r"[^\x00-\x7f]", text)) < len(text) / 5  # another script
    )


def without_brackets(text: str) -> str:
    """Return the text without the empty brackets that dropped templates and cross-references leave."""
    return OPENING_HOLE.sub("", EMPTY_BRACKETS.sub("", text))


def without_holes(text: str) -> str:
    """Return the text without empty brackets and without sentences that have a hole."""
    text = without_brackets(text)
    if HOLE.search(text):
        return " ".join(sentence for sentence in NEXT_SENTENCE.split(text) if not HOLE.search(sentence))
    return text


def without_lone_quotes(text: str) -> str:
    """Return the text without unpaired quotation marks."""
    lone: list[int] = []
    opened: list[int] = []  # at most one
    for mark in re.finditer('["“”]', text):
        place = mark.start()
        if mark[0] == "“" or (mark[0] == '"' and (not place or text[place - 1] in " (—–-“")):
            lone += opened
            opened = [place]
        elif opened:
            opened = []
        else:
            lone.append(place)
    for place in reversed(lone + opened):
        text = text[:place] + text[place + 1 :]
    return BLANK.sub(" ", text).strip()


def as_it_is(documents: Documents) -> Iterator[Document]:
    """Text that is already clean."""
    yield from documents


def without_title(documents: Documents) -> Iterator[Document]:
    """Articles without their first line, otherwise unchanged."""
    for _title, *texts in documents:
        yield texts


def prose(documents: Documents) -> Iterator[Document]:
    """Clean texts without their list items and headings; a line may introduce a list."""
    for lines in documents:
        yield [line for line in lines if is_prose(re.sub(r":$", ".", line))]


def enwiki(documents: Documents) -> Iterator[Document]:
    """Articles without titles, headings, lists, tables and sentences with a hole."""
    for _title, *lines in documents:
        texts = map(without_holes, lines)
        # Headings end in "." in one of the sources, so a sentence must also have eight words.
        yield [text for text in texts if is_prose(text) and text.count(" ") >= 7]


def books(documents: Documents) -> Iterator[Document]:
    """Chapters without headings."""
    for lines in documents:
        # Headings and numbers have no lower case or no punctuation at their end; lines of verse may have a comma.
        yield [line for line in lines if re.search(r"[a-z]", line) and re.search(r"[^\w\s]$", line)]


def press(documents: Documents) -> Iterator[Document]:
    """Press releases without lists of grants, and without quotation marks left unpaired where a quotation was cut."""
    for lines in documents:
        texts = (re.sub(r"(?<=[.!?])(?=“)", " ", line) for line in lines)
        yield [text for text in map(without_lone_quotes, texts) if is_prose(text)]


def stackexchange(documents: Documents) -> Iterator[Document]:
    """Questions and answers without bullets, emphasis, code and formulas."""
    for lines in documents:
        texts = (re.sub(r"^[*>•-]+ ?|\*+(?=\w)|(?<=[\w.!?])\*+", "", line) for line in lines)
        yield [text for text in texts if not MARKUP.search(text) and not re.search(r"\$\S+\$|^\W*$|=>", text)]


def chat(documents: Documents) -> Iterator[Document]:
    """Lines of chat without commands, paths and settings."""
    code = re.compile(r"<\w+>|/\w+/|^/|\w=\w|^\$|[|{}]\s")
    for lines in documents:
        yield [line for line in lines if not code.search(line)]


def meetings(documents: Documents) -> Iterator[Document]:
    """Speech with hyphens closed up ("twenty - four") and spelled letters ("LC_D_") joined to words."""
    for lines in documents:
        yield [re.sub(r"(?<=\w) - (?=\w)", "-", line.replace("_", "")) for line in lines]


def openstax(documents: Documents) -> Iterator[Document]:
    """Modules without objectives, glossaries, exercises' options, references, teachers' notes."""
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
    for lines in documents:
        if "an OpenStax resource" in " ".join(lines[:9]):  # the preface, which is the same in every book
            continue
        texts = map(without_holes, lines)
        yield [text for text in texts if is_prose(text) and not debris.search(text)]


def techdocs(documents: Documents) -> Iterator[Document]:
    """Pages of documentation: only sentences, also those that introduce code; no code, no boilerplate."""
    code = re.compile(r"=|[$@]\w|::|;$|\w\(\w*\)[.;]\w|[(\[]\)\[|%|`|--\w|^(?:Type|Default|Applies to|Example):")
    for lines in documents:
        texts = (re.sub(r"^\[!?[A-Za-z]+\] ?", "", line) for line in lines)  # "[!NOTE] "
        yield [
            text
            for text in texts
            if is_prose(re.sub(r":$", ".", text)) and not HOLE.search(text) and not code.search(text)
        ]


def plos(documents: Documents) -> Iterator[Document]:
    """Articles, without the stray commas that dropped citations leave ("and LNs , , rapidly")."""
    for lines in documents:
        texts = (re.sub(r"[ ,;–]+(?=[.;](?: |$))", "", without_brackets(line)) for line in lines)
        texts = (re.sub(r",*(?: (?:[,;]|–,)|,,)[ ,;–]*(?= )", ",", text) for text in texts)
        texts = (re.sub(r"(?<!\.)\.\.(?= |$)", ".", text) for text in texts)  # "et al.."
        yield [text for text in texts if is_prose(text)]


def speeches(documents: Documents) -> Iterator[Document]:
    """Speeches without headings and [Applause], lines joined; a title or salutation starts a new speech."""
    border = re.compile(
        r"(?:PRESIDENT [A-Z. ]+'S|ADDRESS|STATE OF THE UNION|SPECIAL MESSAGE) .*[A-Z]{3}"
        r"|(?:My |Friends and )?[Ff]ellow[- ](?:[Cc]itizens|[Cc]ountrymen)|My Countrymen"
        r"|(?:Mr\.|Madam|Vice President|Senator|Chief Justice) [A-Z].*(?:Chief Justice|Speaker|Congress|President)"
    )
    speech: Document = []
    for line in chain.from_iterable(documents):
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


def factbook(documents: Documents) -> Iterator[Document]:
    """Sentences about countries, without those about the book itself."""
    for lines in prose(documents):
        yield [line for line in lines if "The World Factbook" not in line]
