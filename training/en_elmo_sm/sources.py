"""The sources of the mix: text, kind, weight and cleaning of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import clean
from clean import Document, Documents

# Authors of the books. Some are in no list, because they are not free where copyright lasts for life and 70 years.
# These are Anderson, Budrys, Cherry-Garrard, Christie, Dick, Du Bois, Forster, Harrison, Hemingway, Leiber, Maugham,
# Piper, Pohl, Reynolds, Russell, Sayers, Sheckley, Upton Sinclair, Wodehouse.
SINCE_1900 = (
    "arthur-conan-doyle_the-hound booth-tarkington d-h-lawrence edgar-rice-burroughs edith-wharton f-scott-fitzgerald "
    "h-g-wells h-p-lovecraft jack-london james-joyce jane-addams john-buchan john-galsworthy l-m-montgomery o-henry "
    "sinclair-lewis t-e-lawrence theodore-dreiser virginia-woolf willa-cather william-james"
)
SINCE_1800 = (
    "alexandre-dumas anton-chekhov arthur-conan-doyle_the-adventures charles-darwin charles-dickens fyodor-dostoevsky "
    "george-eliot henry-george herman-melville jane-austen kate-chopin leo-tolstoy thorstein-veblen victor-hugo"
)
OLDER = "adam-smith edward-gibbon plato samuel-pepys"


@dataclass(frozen=True)
class Source:
    """A part of the mix.

    weight: how often its documents are read; 0.5 is half of them, once. folder: the name of its folder, by default the
    name of the source. files: how the names of its files begin.
    """

    name: str
    kind: str
    weight: float
    clean: Callable[[Documents], Iterator[Document]]
    folder: str = ""
    files: str = ""

    def paths(self, pretraining: Path) -> list[Path]:
        """Return the source's files, sorted by name."""
        paths = sorted((pretraining / (self.folder or self.name)).glob("*.txt.xz"))
        return [path for path in paths if path.name.startswith(tuple(self.files.split()) or "")]


# If two sources share text, the upper one keeps it.
SOURCES = (
    Source("enwiki-2014-core", "Wikipedia", 2, clean.without_title),
    Source("enwiki-2018-full", "Wikipedia", 1, clean.enwiki),
    Source("enwiki-2021-shard", "Wikipedia", 1, clean.enwiki),
    Source("human-rights-reports-pd", "news", 0.5, clean.prose),
    Source("senate-press-pd", "news", 1, clean.press),
    Source("house-press-pd", "news", 1, clean.press),
    Source("stackexchange-ccbysa", "informal", 1, clean.stackexchange),
    Source("gov-blogs-cc0", "informal", 1, clean.prose),
    Source("carpentries-blog-ccby", "informal", 1, clean.prose),
    Source("congress-tweets-pd", "informal", 2, clean.as_it_is),
    Source("irc-ccby", "informal", 1, clean.chat),
    Source("meetings-ccby", "informal", 1, clean.meetings),
    Source("dialogues-ccby", "informal", 1, clean.as_it_is),
    Source("sgd-dialogues", "informal", 0.375, clean.as_it_is),
    Source("books-since-1900", "books", 1, clean.books, "standardebooks-cc0", SINCE_1900),
    Source("books-since-1800", "books", 0.65, clean.books, "standardebooks-cc0", SINCE_1800),
    Source("books-older", "books", 0.1, clean.books, "standardebooks-cc0", OLDER),
    Source("historyatstate-pd", "expository", 1, clean.prose),
    Source("us-presidential-pd", "expository", 1, clean.speeches),
    Source("openstax-ccby", "expository", 0.9, clean.openstax),
    Source("plos-ccby", "expository", 1, clean.plos),
    Source("techdocs", "expository", 1, clean.techdocs),
    Source("cia-factbook-pd", "expository", 1, clean.factbook),
)
