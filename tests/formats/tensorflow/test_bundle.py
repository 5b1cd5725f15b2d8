"""TensorFlow's bundles: read exactly to the bit. Hostile or damaged ones are refused with one error that names the
file."""

import shutil
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.formats.tensorflow import table
from spacy_elmo.formats.tensorflow.bundle import Bundle
from spacy_elmo.formats.tensorflow.protobuf import MalformedError

MEMORY = 2**24  # the most bytes that reading a small bundle may take, whatever its index says
MODELS = ("tiny_2l_skip", "trained_chars", "trained_words", "two_shards", "hub_tiny_2l_skip/variables")


def all_arrays(bundle):
    return dict(bundle.arrays(bundle.variables))


# --- what is read ---


@pytest.mark.parametrize("model", MODELS)
def test_every_variable_of_tensorflow_is_read_with_its_checksum(tensorflow_models, model):
    (index,) = (tensorflow_models / model).glob("*.index")
    bundle = Bundle(index)
    arrays = all_arrays(bundle)
    assert arrays.keys() == bundle.variables.keys()
    assert sum(array.nbytes for array in arrays.values()) == sum(
        path.stat().st_size for path in index.parent.glob("*.data-*")
    )
    assert bundle.n_bytes == sum(path.stat().st_size for path in (index, *index.parent.glob("*.data-*")))


def test_softmax_and_embeddings_are_those_that_bilm_tf_writes(tensorflow_models):
    for model in ("tiny_2l_skip", "trained_chars", "trained_words", "two_shards"):
        (index,) = (tensorflow_models / model).glob("*.index")
        arrays = dict(Bundle(index).arrays(["lm/softmax/W", "lm/softmax/b"]))
        with h5py.File(tensorflow_models / model / "expected" / "softmax.hdf5") as file:
            for name in ("softmax/W", "softmax/b"):
                assert arrays[f"lm/{name}"].tobytes() == file[name][...].tobytes()


def test_floats_of_every_width_are_read(tmp_path, writer):
    bundle = writer(tmp_path / "model", n_shards=2)
    expected = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "single": np.arange(4, dtype=np.float32).reshape(1, 4),
        "double": np.array(0.1),
        "none": np.zeros((0, 5), np.float32),
    }
    for number, (name, array) in enumerate(expected.items()):
        bundle.add(name, array, where=number % 2)
    for name, array in all_arrays(Bundle(bundle.write())).items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


def test_a_bundle_of_many_blocks_is_read(tmp_path, writer):
    bundle = writer(tmp_path / "model")
    for number in range(200):
        bundle.add(f"variable_{number}", np.full(3, number, np.float32))
    arrays = all_arrays(Bundle(bundle.write()))
    assert [arrays[f"variable_{number}"].tolist() for number in range(200)] == [[n] * 3 for n in range(200)]


def test_only_the_shards_that_are_needed_have_to_be_there(copy_of):
    folder = copy_of("two_shards")
    bundle = Bundle(folder / "model.ckpt-935588.index")
    wanted = [name for name, variable in bundle.variables.items() if variable.shard == 0]
    (folder / "model.ckpt-935588.data-00001-of-00002").unlink()
    assert dict(bundle.arrays(wanted)).keys() == set(wanted)


# --- what is refused: hostile entries ---

HOSTILE = [
    ("more dimensions than any", {"shape": (1,) * 9 + (4,)}, "has the shape"),
    ("a negative dimension", {"shape": (-4,)}, "has the shape"),
    ("a negative product", {"shape": (-2, -2)}, "has the shape"),
    ("an enormous dimension", {"shape": (2**62,)}, "has the shape"),
    ("a shape that overflows", {"shape": (2**33, 2**33), "size": 0}, "does not match shape"),
    ("an enormous array", {"shape": (2**38,), "size": 2**40}, "cut off"),
    ("a shape that is too large", {"shape": (5,)}, "does not match shape"),
    ("a shape that is too small", {"shape": (3,)}, "does not match shape"),
    ("an offset beyond the file", {"offset": 2**40}, "cut off"),
    ("an offset near the end", {"offset": 4}, "cut off"),
    ("a negative offset", {"offset": -16}, "cut off"),
    ("a shard that there is not", {"shard": 1}, "shard 1 of 1"),
    ("a shard of an enormous number", {"shard": 2**63}, "of 1"),
    ("another type", {"dtype": 3}, "holds int32"),
    ("an unknown type", {"dtype": 99}, "type 99"),
    ("no type", {"dtype": 0}, "type 0"),
    ("a wrong checksum", {"crc": 1}, "checksum of hostile is wrong"),
    ("text where numbers belong", {"more": b"\x1a\x01x"}, "damaged"),
    ("slices", {"more": b"\x3a\x00"}, "partitioned"),
    ("an unknown kind of field", {"more": b"\x0f"}, "unknown kind 7"),
    ("a field cut off", {"more": b"\x3a\x09"}, "beyond its end"),
    ("a number cut off", {"more": b"\x08\xff"}, "cut off"),
    ("a number of 80 bits", {"more": b"\x08" + b"\xff" * 10 + b"\x01"}, "more than 64 bits"),
]


@pytest.mark.parametrize(("changes", "message"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_entry_is_one_clear_error_and_takes_no_memory(tmp_path, writer, changes, message):
    bundle = writer(tmp_path / "model.ckpt-1")
    bundle.add("hostile", np.arange(4, dtype=np.float32), **changes)
    index = bundle.write()
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as caught:
            dict(Bundle(index).arrays(["hostile"]))
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert str(tmp_path / "model.ckpt-1") in str(caught.value)


def test_variables_that_share_bytes_are_refused(tmp_path, writer):
    """Otherwise a short file could claim any amount of memory."""
    bundle = writer(tmp_path / "model")
    array = np.ones(100, np.float32)
    bundle.add("one", array)
    bundle.add("two", array, offset=396)
    with pytest.raises(WeightsError, match=r"model\.index.*one and two overlap"):
        Bundle(bundle.write())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "0 shards"),
        (b"\x08\x80\x80\x80\x80\x10", "shards"),
        (b"\x08\x01\x10\x01", "big-endian"),
        (b"\x08\x01\x1a\x02\x10\x09", "newer"),
        (b"\x0a\x01x", "bytes instead of a number"),
    ],
    ids=["no shards", "more shards than names", "big-endian", "of a later version", "no number"],
)
def test_a_header_of_another_kind_is_refused(tmp_path, writer, header, message):
    bundle = writer(tmp_path / "model")
    bundle.header = header
    with pytest.raises(WeightsError, match=rf"model\.index.*{message}"):
        Bundle(bundle.write())


def test_an_index_without_header_is_refused(tmp_path, make_table):
    (tmp_path / "model.index").write_bytes(make_table([(b"a", b"\x08\x01")]))
    with pytest.raises(WeightsError, match="not the header"):
        Bundle(tmp_path / "model.index")


# --- what is refused: damaged files ---


def test_snappy_is_refused_by_its_name(tmp_path, writer):
    bundle = writer(tmp_path / "model")
    bundle.add("a", np.zeros(2, np.float32))
    with pytest.raises(WeightsError, match=r"model\.index.*snappy.*save the model again"):
        Bundle(bundle.write(compression=1))
    with pytest.raises(WeightsError, match="unknown compression 7"):
        Bundle(bundle.write(compression=7))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: bytes(len(content)),
        lambda content: b"\x89HDF\r\n\x1a\n" + content,
    ],
    ids=["empty", "half", "one byte less", "one byte more", "one byte changed", "zeros", "of another format"],
)
def test_a_damaged_index_is_an_error_that_names_it(copy_of, change):
    index = copy_of("trained_words") / "model.ckpt-60.index"
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(WeightsError, match=r"model\.ckpt-60\.index: not a TensorFlow index, or a damaged one"):
        Bundle(index)


def test_an_index_as_long_as_no_model_has_is_not_read(tmp_path):
    with (tmp_path / "model.index").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(WeightsError, match=r"model\.index.*more than any model's index"):
        Bundle(tmp_path / "model.index")


def test_names_that_a_short_index_spells_out_are_refused(tmp_path, raw_table):
    """Keys share prefixes, so ten thousand of them could take a gigabyte."""
    first, others = (
        b"\x00\x80\x80\x04\x00" + b"a" * 2**16,
        b"".join(b"\x80\x80\x04\x02\x00" + number.to_bytes(2, "big") for number in range(10**4)),
    )
    (tmp_path / "model.index").write_bytes(raw_table(b"\x00\x00\x02\x08\x01" + first + others))
    with pytest.raises(WeightsError, match="a name has 65,536 bytes"):
        Bundle(tmp_path / "model.index")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (b"\x01\x00\x00", "beyond its block"),
        (b"\x00\x00\x02\x08\x01\x00\x01\x00b\x00\x01\x00a", "do not ascend"),
        (b"\x00\x00\x02\x08\x01\x00\x01\x00a\x00\x01\x00a", "do not ascend"),
        (b"\x00\x00\x02\x08\x01\x00\x7f\x00a", "beyond its block"),
        (b"\x00\x00\x02\x08\x01\x00\x01\x7fa", "beyond its block"),
    ],
    ids=["shares with none", "falling keys", "equal keys", "a long key", "a long value"],
)
def test_blocks_that_no_table_has_are_refused(tmp_path, raw_table, entries, message):
    (tmp_path / "model.index").write_bytes(raw_table(entries))
    with pytest.raises(WeightsError, match=message):
        Bundle(tmp_path / "model.index")


def test_a_block_that_is_named_twice_is_refused(tmp_path, raw_table):
    """The checksum would be computed for each mention. An index of 4 MB could take hours."""
    (tmp_path / "model.index").write_bytes(raw_table(b"", times=2))
    with pytest.raises(WeightsError, match="blocks are not in order"):
        Bundle(tmp_path / "model.index")


def test_names_longer_together_than_those_of_any_model_are_refused(raw_table, monkeypatch):
    """Each name begins like the one before it, so an index of 4 MB could expand to a gigabyte."""
    monkeypatch.setattr(table, "_MOST_KEYS", 10_000)
    first = bytes([0, 200, 1, 0]) + b"a" * 200
    others = b"".join(bytes([200, 1, 1, 0, number]) for number in range(100))
    assert len(list(table.entries(memoryview(raw_table(first + others[: 5 * 40]))))) == 41
    with pytest.raises(MalformedError, match="names are longer"):
        list(table.entries(memoryview(raw_table(first + others))))


def test_a_missing_shard_is_an_error_that_names_it(copy_of):
    folder = copy_of("two_shards")
    (folder / "model.ckpt-935588.data-00001-of-00002").unlink()
    with pytest.raises(WeightsError, match=r"model\.ckpt-935588\.data-00001-of-00002: no such file"):
        all_arrays(Bundle(folder / "model.ckpt-935588.index"))


def test_a_truncated_shard_is_an_error_that_names_it(copy_of):
    folder = copy_of("two_shards")
    shard = folder / "model.ckpt-935588.data-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"data-00001-of-00002: cut off, it ends within lm/"):
        all_arrays(Bundle(folder / "model.ckpt-935588.index"))


def test_a_shard_of_another_model_is_an_error_that_names_it(copy_of, tensorflow_models):
    folder = copy_of("two_shards")
    for number in (0, 1):
        path = folder / f"model.ckpt-935588.data-0000{number}-of-00002"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"data-0000\d-of-00002: the checksum of lm/.* is wrong.*another step"):
        all_arrays(Bundle(folder / "model.ckpt-935588.index"))


def test_a_missing_index_is_an_error_that_names_it(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.index: no such file"):
        Bundle(tmp_path / "model.index")


def test_variables_in_pieces_are_refused_by_their_name(tensorflow_models):
    bundle = Bundle(tensorflow_models / "partitioned" / "model.ckpt-1.index")
    with pytest.raises(WeightsError, match=r"lm/char_embed is partitioned"):
        bundle.find("lm/char_embed")
    assert dict(bundle.arrays(["lm/RNN_0/rnn/lstm_cell/kernel"]))["lm/RNN_0/rnn/lstm_cell/kernel"].shape == (16, 48)


# --- any bytes ---

CHANGES = st.lists(st.tuples(st.integers(0, 1320), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def changed(tensorflow_models, tmp_path_factory, mender):
    """Return a function that reads the index of a small model with some bytes changed, with or without correct block
    checksums."""
    folder = tmp_path_factory.mktemp("changed")
    for path in (tensorflow_models / "trained_words").glob("model.*"):
        shutil.copy(path, folder)
    index, shard = folder / "model.ckpt-60.index", folder / "model.ckpt-60.data-00000-of-00001"
    original = index.read_bytes()
    mend = mender(original)

    def read(changes, is_mended):
        content = bytearray(original)
        for position, value in changes:
            content[position % len(content)] = value
        index.write_bytes(mend(content) if is_mended else content)
        message, taken = str(folder), 0
        try:
            for _, array in Bundle(index).arrays(Bundle(index).variables):
                taken += array.nbytes
        except ElmoError as error:
            message = str(error)
        assert str(folder) in message
        assert taken <= shard.stat().st_size

    return read


@given(CHANGES)
@settings(max_examples=100)
def test_any_change_of_an_index_is_an_error_of_ours_or_none(changed, changes):
    changed(changes, is_mended=False)


@given(CHANGES)
@settings(max_examples=300)
def test_any_change_with_right_checksums_is_an_error_of_ours_or_none(changed, changes):
    changed(changes, is_mended=True)
