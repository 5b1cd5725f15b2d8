"""Batches, packed orders and the word table."""

import copy
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.bilm.batching import _WORD_BYTES, Packing, WordTable, plan_batches

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=30)


@given(lengths=st.lists(st.integers(1, 30), max_size=40), max_tokens=st.integers(1, 200))
def test_batches_hold_every_sequence_once_longest_first_within_the_budget(lengths, max_tokens):
    batches = list(plan_batches(lengths, max_tokens))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    in_order = [lengths[number] for batch in batches for number in batch]
    assert in_order == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[number] for number in batch) <= max_tokens


@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=40), max_tokens=st.integers(1, 200))
def test_no_batch_ends_before_its_budget_asks_for_it(lengths, max_tokens):
    batches = list(plan_batches(lengths, max_tokens))
    for batch, following in itertools.pairwise(batches):
        assert sum(lengths[number] for number in (*batch, following[0])) > max_tokens


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), tokens=st.integers(1, 200), stretch=st.integers(1, 5)
)
def test_only_few_long_sequences_may_take_more(lengths, tokens, stretch):
    batches = list(plan_batches(lengths, tokens, stretch))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        *before, last = [lengths[number] for number in batch]
        budget = tokens if len(before) >= 16 else stretch * tokens
        assert not before or sum(before) + last <= budget


@given(
    lengths=st.lists(st.integers(1, 30), max_size=60),
    tokens=st.integers(1, 200),
    stretch=st.integers(1, 5),
    rows=st.integers(1, 20),
)
def test_a_batch_has_at_most_so_many_rows_and_no_fewer_for_it(lengths, tokens, stretch, rows):
    batches = list(plan_batches(lengths, tokens, stretch, rows))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    assert all(len(batch) <= rows for batch in batches)
    first = next(plan_batches(lengths, tokens, stretch), [])
    assert (batches or [[]])[0] == first[:rows]


def test_no_sequences_no_batches():
    assert list(plan_batches([], 100)) == []


@given(lengths=LENGTHS)
def test_packing_lays_out_time_steps_longest_sequence_first(lengths):
    packing = Packing.of(lengths)
    tokens = [(number, position) for number, length in enumerate(lengths) for position in range(length)]
    rows = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    forward = [(row, time) for time in range(max(lengths)) for row in rows if time < lengths[row]]
    backward = [(row, lengths[row] - 1 - time) for row, time in forward]
    assert packing.rows.tolist() == rows
    assert [tokens[number] for number in packing.order[0]] == forward
    assert [tokens[number] for number in packing.order[1]] == backward
    assert packing.batch_sizes == [sum(length > time for length in lengths) for time in range(max(lengths))]


@given(lengths=LENGTHS)
def test_packing_without_padding_is_a_permutation_in_each_direction(lengths):
    packing = Packing.of(lengths)
    for order in packing.order:
        assert sorted(order.tolist()) == list(range(sum(lengths)))


@given(lengths=LENGTHS.map(lambda lengths: [length + 1 for length in lengths]))
def test_packing_without_boundaries_reads_up_to_the_last_token_that_is_wanted(lengths):
    packing = Packing.of(lengths, keep_boundaries=False)
    tokens = [(number, position) for number, length in enumerate(lengths) for position in range(length)]
    inner = [token for token in tokens if token[1] not in (0, lengths[token[0]] - 1)]
    assert packing.n_outputs == len(inner)
    for direction, last in enumerate((lambda number: lengths[number] - 1, lambda number: 0)):
        read = [tokens[number] for number in packing.order[direction]]
        assert sorted(read) == [token for token in tokens if token[1] != last(token[0])]
        assert [inner[place] for place in packing.places[direction]] == read[packing.n_first :]


class Embedder:
    """An embedder whose vectors identify their word. It records the requested words."""

    def __init__(self, width=4):
        self.width = width
        self.asked = []

    def __call__(self, words):
        self.asked.append(list(words))
        return torch.tensor([[float(word)] * self.width for word in words]).reshape(len(words), self.width)


def look_up(table, words, embed, version=0):
    vectors = table.lookup(words, embed, version)
    assert vectors[:, 0].tolist() == [float(word) for word in words]


def test_a_word_is_embedded_once():
    table, embed = WordTable(), Embedder()
    look_up(table, ["1", "2"], embed)
    look_up(table, ["2", "3", "1"], embed)
    look_up(table, ["3"], embed)
    assert embed.asked == [["1", "2"], ["3"]]


def test_other_weights_empty_the_table():
    table, embed = WordTable(), Embedder()
    look_up(table, ["1"], embed, version=0)
    look_up(table, ["1"], embed, version=1)
    assert embed.asked == [["1"], ["1"]]


def test_clearing_empties_the_table():
    table, embed = WordTable(), Embedder()
    look_up(table, ["1"], embed)
    table.clear()
    look_up(table, ["1"], embed)
    assert embed.asked == [["1"], ["1"]]


def test_a_full_table_starts_anew():
    table, embed = WordTable(max_bytes=3 * (16 + _WORD_BYTES)), Embedder()
    look_up(table, ["1", "2", "3"], embed)
    look_up(table, ["3", "4"], embed)
    assert embed.asked == [["1", "2", "3"], ["3", "4"]]
    look_up(table, ["3", "4"], embed)
    assert len(embed.asked) == 2
    look_up(table, ["1"], embed)
    assert embed.asked[2:] == [["1"]]


@given(
    calls=st.lists(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=8), max_size=20),
    rows=st.integers(0, 20),
)
def test_a_table_of_any_size_returns_the_vectors_of_its_words(calls, rows):
    table, embed = WordTable(max_bytes=rows * (16 + _WORD_BYTES)), Embedder()
    for words in calls:
        look_up(table, [str(word) for word in words], embed)


@pytest.mark.parametrize("rows", [3, 33, 65, 100])
def test_a_table_takes_no_more_memory_than_its_budget(rows):
    table, embed = WordTable(max_bytes=rows * (16 + _WORD_BYTES)), Embedder()
    for word in range(rows):
        look_up(table, [str(word)], embed)
    assert len(embed.asked) == rows
    assert table._vectors.numel() * table._vectors.element_size() <= rows * 16


def test_a_failed_embedding_leaves_the_table_usable():
    table, embed = WordTable(), Embedder()
    look_up(table, ["1"], embed)
    with pytest.raises(ZeroDivisionError):
        table.lookup(["1", "2"], lambda words: 1 / 0, 0)
    look_up(table, ["2", "1"], embed)
    assert embed.asked == [["1"], ["2"]]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_a_copy_has_the_budget_but_not_the_words(duplicate):
    table, embed = WordTable(max_bytes=1234), Embedder()
    look_up(table, ["1"], embed)
    twin = duplicate(table)
    assert twin.max_bytes == 1234
    look_up(twin, ["1"], embed)
    assert embed.asked == [["1"], ["1"]]


def test_what_is_returned_is_not_the_table_itself():
    table, embed = WordTable(), Embedder()
    table.lookup(["1"], embed, 0).zero_()
    assert np.all(table.lookup(["1"], embed, 0).numpy() == 1)


def test_no_words_leave_the_table_as_it_is():
    table, embed = WordTable(), Embedder()
    table.embed(["1"], embed, 1)
    table.embed([], embed, 1)
    table.embed(["1"], embed, 1)
    assert embed.asked == [["1"], []]


def test_table_is_not_emptied_under_a_thread_that_reads_it():
    table, embed = WordTable(), Embedder()
    look_up(table, ["1"], embed, 1)
    clearing = threading.Thread(target=table.clear)

    def slowly(words):
        clearing.start()
        clearing.join(0.2)
        return embed(words)

    look_up(table, ["1", "2"], slowly, 1)
    clearing.join()
