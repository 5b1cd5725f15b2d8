import pytest


@pytest.fixture
def sources(import_training):
    return import_training("sources")


def test_names_are_there_once(sources):
    names = [source.name for source in sources.SOURCES]
    assert len(set(names)) == len(names)


def test_every_folder_is_used_and_every_file_once(sources, shared):
    pretraining = shared / "data" / "pretraining"
    used = [path for source in sources.SOURCES for path in source.paths(pretraining)]
    assert len(set(used)) == len(used)
    assert {path.parent for path in used} == {path for path in pretraining.iterdir() if path.is_dir()}


def test_books_that_are_not_free_everywhere_are_left_out(sources, shared):
    pretraining = shared / "data" / "pretraining"
    used = {path.name for source in sources.SOURCES for path in source.paths(pretraining)}
    books = {path.name for path in (pretraining / "standardebooks-cc0").glob("*.xz")}
    authors = {name.split("_")[0] for name in books - used}
    assert authors == {
        "agatha-christie", "algis-budrys", "apsley-cherry-garrard", "bertrand-russell", "dorothy-l-sayers",
        "e-m-forster", "ernest-hemingway", "frederik-pohl", "fritz-leiber", "h-beam-piper", "harry-harrison",
        "mack-reynolds", "p-g-wodehouse", "philip-k-dick", "poul-anderson", "robert-sheckley", "upton-sinclair",
        "w-e-b-du-bois", "w-somerset-maugham",
    }  # fmt: skip
