from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.bilm.time_steps import time_blocks, time_steps, tokens_of


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30), budget=st.integers(1, 500))
def test_time_blocks_cover_every_step_once_within_the_budget(sizes, budget):
    steps = time_steps(sorted(sizes, reverse=True), None)
    blocks = time_blocks(steps, budget)
    assert [step for block in blocks for step in block] == steps
    tokens = [tokens_of(block) for block in blocks]
    assert [one.start for one in tokens] == [0, *(one.stop for one in tokens[:-1])]
    assert tokens[-1].stop == sum(sizes)
    assert all(one.stop - one.start <= budget or len(block) == 1 for one, block in zip(tokens, blocks, strict=True))
