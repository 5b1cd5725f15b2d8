import pytest


@pytest.fixture
def clean(import_training):
    return import_training("clean")


SENTENCE = "The river that runs through the town is long and cold."
CASES = {
    "without_title": (["Alan Smithee", "a line."], ["a line."]),
    "enwiki": (
        ["River", "Geography.", SENTENCE, f"River (; from Latin) runs here and is up to wide. {SENTENCE}", "* item"],
        [SENTENCE, SENTENCE],
    ),
    "prose": (
        ["Heading", "* a list item that is long enough to be a line of text", SENTENCE, SENTENCE[:-1] + ":"],
        [SENTENCE, SENTENCE[:-1] + ":"],
    ),
    "books": (["CHAPTER IV", "The Letter", "“Yes,” he said,"], ["“Yes,” he said,"]),
    "press": (
        [
            "$400,000 to the City of Akron for combined sewer overflow.",
            f"“{SENTENCE}",
            f"{SENTENCE}” He said “so” today.",
        ],
        [SENTENCE, f"{SENTENCE} He said “so” today."],
    ),
    "stackexchange": (["* Do *not* do it, really", "Let $x_1$ be it", "</b>", "ok"], ["Do not do it, really", "ok"]),
    "chat": (["/join it", "see /etc/fstab for it", "a=b", "you're right :)"], ["you're right :)"]),
    "meetings": (["Mm - hmm, the twenty - four LC_D_s."], ["Mm-hmm, the twenty-four LCDs."]),
    "factbook": ([SENTENCE, f"{SENTENCE} The World Factbook says so."], [SENTENCE]),
    "openstax": (["a. an option that is long enough to be a line.", SENTENCE], [SENTENCE]),
    "techdocs": (["Run x = y in a shell and see what it prints then.", f"[!NOTE] {SENTENCE}"], [SENTENCE]),
    "plos": ([f"As others found , , {SENTENCE}"], [f"As others found, {SENTENCE}"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_running_text_goes(clean, name):
    lines, kept = CASES[name]
    assert list(getattr(clean, name)([lines])) == [kept]


def test_speeches_begin_at_salutations_and_wrapped_lines_are_joined(clean):
    salutation = "My fellow citizens, I am here."
    address = [salutation, *["We meet here today as free people,", "and so we shall part. (Applause.)"] * 60]
    first, second = clean.speeches([address, address])
    assert first == second
    assert first[:2] == [salutation, "We meet here today as free people, and so we shall part."]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('"Go," he said. "Now.', '"Go," he said. Now.'),
        ('So it was." He left.', "So it was. He left."),
        ("“One “two” three.”", "One “two” three."),
        ('He said “so” and 5" more', "He said “so” and 5 more"),
        ("No marks.", "No marks."),
    ],
)
def test_quotation_marks_without_a_partner_go(clean, text, kept):
    assert clean.without_lone_quotes(text) == kept


def test_documents_are_read_normalised_and_every_byte_is_told(clean, write, tmp_path):
    path = tmp_path / "a.txt.xz"
    write(path, "\n\nOne\u00a0 line\u200b\nanother \n \ne\u0301\n")
    told = []
    assert list(clean.read(path, told.append)) == [["One line", "another"], ["é"]]
    assert sum(told) == path.stat().st_size
