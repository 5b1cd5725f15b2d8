"""The module with AllenNLP's call, compared with AllenNLP's own outputs, and what it learns."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.references import BATCHES, close
from spacy_elmo import ElmoError, formats
from spacy_elmo.bilm import CarriedState, Elmo, batch_to_ids

ALLENNLP = ("tiny_1l_noskip", "tiny_2l_clip", "tiny_2l_skip")  # the models that AllenNLP can load
MIXED = ALLENNLP[1:]
TEXT = [["The", "same", "words", "."], ["The", "same"], [], ["words", "words", "The"]]


def elmo(folder, n=1, **settings):
    settings = {"dropout": 0.0} | settings
    return Elmo(str(folder / "options.json"), str(folder / "weights.hdf5"), n, **settings)


@pytest.fixture
def tiny(data):
    return data / "tiny_2l_skip"


def giving_layers(module):
    """Make each mix of a module return a single layer."""
    with torch.no_grad():
        for number, mix in enumerate(module.scalar_mixes):
            mix.weights[number] = 1000.0
    return module


@pytest.mark.parametrize("keep_boundaries", [False, True])
@pytest.mark.parametrize("do_layer_norm", [False, True])
@pytest.mark.parametrize("folder", MIXED)
def test_mix_is_that_of_allennlp_padding_included(shared, sentences, folder, do_layer_norm, keep_boundaries):
    root = shared / "references" / folder
    expected = np.load(root / "allennlp.npz")[f"mix_ln{do_layer_norm:d}_keepbe{keep_boundaries:d}"]
    module = elmo(
        root,
        do_layer_norm=do_layer_norm,
        keep_sentence_boundaries=keep_boundaries,
        scalar_mix_parameters=[0.3, -0.2, 0.5],
    )
    with torch.no_grad():
        module.scalar_mixes[0].gamma.fill_(1.7)
    output = module(batch_to_ids(sentences[:8]))
    close(output["elmo_representations"][0], expected)
    lengths = [len(sentence) + 2 * keep_boundaries for sentence in sentences[:8]]
    assert output["mask"].dtype == torch.bool
    assert output["mask"].tolist() == [[i < length for i in range(expected.shape[1])] for length in lengths]


@pytest.mark.parametrize("folder", ALLENNLP)
def test_each_layer_of_each_sentence_is_that_of_allennlp(shared, sentences, folder):
    root = shared / "references" / folder
    expected = np.load(root / "allennlp.npz")
    n_layers = len(expected["zs_00"])
    bounded = giving_layers(elmo(root, n_layers, keep_sentence_boundaries=True))
    bare = giving_layers(elmo(root, n_layers))
    for number, sentence in enumerate(sentences):
        ids = batch_to_ids([sentence])
        for layer in range(n_layers):
            theirs = expected[f"zs_{number:02d}"][None, layer]
            close(bounded(ids)["elmo_representations"][layer], theirs)
            close(bare(ids)["elmo_representations"][layer], theirs[:, 1:-1])


@pytest.mark.parametrize("folder", ALLENNLP)
def test_padded_batch_is_that_of_allennlp(shared, sentences, folder):
    root = shared / "references" / folder
    expected = np.load(root / "allennlp.npz")["all"]
    module = giving_layers(elmo(root, expected.shape[1], keep_sentence_boundaries=True))
    output = module(batch_to_ids(sentences))["elmo_representations"]
    for layer, ours in enumerate(output):
        close(ours, expected[:, layer])


@pytest.mark.parametrize("folder", ["tiny_2l_clip", "tiny_2l_skip"])
def test_carried_state_is_that_of_allennlp(data, sentences, folder):
    """In float64, because the originals' own carried states differ by 1.2e-5 in float32."""
    with np.load(data / folder / "expected.npz") as arrays:
        expected = [arrays[f"allennlp/st{number}"] for number in range(4)]
    module = giving_layers(elmo(data / folder, 3, keep_sentence_boundaries=True, carry_state=True)).double()
    for theirs, rows in zip(expected, BATCHES, strict=True):
        for layer, ours in enumerate(module(batch_to_ids(sentences[rows]))["elmo_representations"]):
            close(ours, theirs[:, layer])
    module.state = CarriedState()
    close(module(batch_to_ids(sentences[:12]))["elmo_representations"][2], expected[0][:, 2])


def test_no_state_is_carried_unless_asked_for(tiny):
    ids = batch_to_ids(TEXT)
    module, carrying = elmo(tiny), elmo(tiny, carry_state=True)
    first, second = (module(ids)["elmo_representations"][0] for _ in range(2))
    assert torch.equal(first, second)
    first, second = (carrying(ids)["elmo_representations"][0] for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


def test_character_ids_are_those_of_allennlp(shared, sentences):
    expected = np.load(shared / "references" / "tiny_2l_skip" / "allennlp.npz")
    for number, sentence in enumerate(sentences):
        if sentence:  # AllenNLP has no outputs for the empty sentence
            ours = batch_to_ids([sentence])
            assert ours.dtype == torch.int64
            np.testing.assert_array_equal(ours[0].numpy(), expected[f"char_ids_{number:02d}"])


def test_character_ids_of_a_batch_are_padded_with_zeros():
    ids = batch_to_ids(TEXT)
    assert ids.shape == (4, 4, 50)
    assert ids[1, 2:].eq(0).all()
    assert ids[2].eq(0).all()
    assert batch_to_ids([]).shape == (0, 0, 50)


@pytest.mark.parametrize("wrong", [["The same"], [["The", 3]]])
def test_character_ids_of_what_is_no_token_are_an_error(wrong):
    with pytest.raises(ElmoError, match=r"list of tokens|a token is a string"):
        batch_to_ids(wrong)


@given(drawn=st.data())
def test_ids_give_what_encode_gives(strategies, make_bilm, tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("model")
    bilm = make_bilm(**drawn.draw(strategies.architectures()))
    formats.write(bilm, folder)
    text = drawn.draw(strategies.lists_of_sentences(min_size=1, max_size=4))
    width = bilm.options.char_cnn.max_characters_per_token
    module = giving_layers(elmo(folder, bilm.options.n_outputs))
    output = module(batch_to_ids(text, width))
    for number, layers in enumerate(bilm.encode(text)):
        for ours, theirs in zip(output["elmo_representations"], layers, strict=True):
            np.testing.assert_allclose(ours[number, : len(theirs)].detach(), theirs, rtol=0, atol=1e-5)


def test_representations_have_mixes_of_their_own(tiny):
    module = elmo(tiny, 2)
    ids = batch_to_ids(TEXT)
    first, second = module(ids)["elmo_representations"]
    assert torch.equal(first, second)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first.square().sum().backward()
    optimizer.step()
    changed, same = module(ids)["elmo_representations"]
    assert torch.equal(same, second)
    assert not torch.allclose(changed, first, atol=1e-3)


def test_dropout_is_for_training_only(tiny):
    module, plain = elmo(tiny, dropout=0.5), elmo(tiny)
    ids = batch_to_ids(TEXT)
    kept = plain(ids)["elmo_representations"][0]
    dropped = module(ids)["elmo_representations"][0]
    is_zero = dropped.eq(0) & kept.ne(0)
    assert is_zero.any()
    torch.testing.assert_close(dropped[~is_zero], 2 * kept[~is_zero])
    assert torch.equal(module.eval()(ids)["elmo_representations"][0], kept)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_gradients_reach_the_bilm_when_asked(tiny, requires_grad):
    module = elmo(tiny, requires_grad=requires_grad)
    module(batch_to_ids(TEXT))["elmo_representations"][0].square().sum().backward()
    assert all((parameter.grad is not None) == requires_grad for parameter in module.bilm.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.scalar_mixes.parameters())


def test_gradients_are_right(tiny):
    """Compares with finite differences, in float64."""
    module = elmo(tiny, requires_grad=True, do_layer_norm=True).double()
    ids = batch_to_ids([["a", "bc"], ["a"]])
    parameters = [
        module.bilm.embedder.biases[0],
        module.bilm.layers[0].bias,
        module.scalar_mixes[0].weights,
        module.scalar_mixes[0].gamma,
    ]

    def loss(*_):
        return module(ids)["elmo_representations"][0].square().sum()

    assert torch.autograd.gradcheck(loss, parameters)


def test_training_changes_what_is_remembered_of_words(tiny):
    """Frozen, it remembers words. After a training step it does not return the old vectors."""
    module = elmo(tiny)
    ids = batch_to_ids(TEXT)
    before = module(ids)["elmo_representations"][0]
    module.bilm.requires_grad_(True)
    optimizer = torch.optim.Adam(module.bilm.embedder.parameters(), lr=0.01, fused=True)
    module(ids)["elmo_representations"][0].square().sum().backward()
    optimizer.step()
    module.bilm.requires_grad_(False)
    after = module(ids)["elmo_representations"][0]
    fresh = copy.deepcopy(module)(ids)["elmo_representations"][0]
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, fresh, rtol=0, atol=1e-6)


def test_fixed_mixes_are_not_trained(tiny):
    module = elmo(tiny, 2, scalar_mix_parameters=[1.0, 0.0, -1.0])
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(mix.weights.tolist() == [1.0, 0.0, -1.0] for mix in module.scalar_mixes)


def test_state_dict_round_trip(tiny, data):
    module = elmo(tiny, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 10)
    other = elmo(tiny, 2)
    ids = batch_to_ids(TEXT)
    before = other(ids)["elmo_representations"][1]
    assert not other.load_state_dict(module.state_dict()).missing_keys
    after = other(ids)["elmo_representations"][1]
    assert torch.equal(after, module(ids)["elmo_representations"][1])
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_give_the_same(tiny, copied):
    module = elmo(tiny)
    ids = batch_to_ids(TEXT)
    expected = module(ids)["elmo_representations"][0]
    assert torch.equal(copied(module)(ids)["elmo_representations"][0], expected)


def test_words_by_number_are_read_as_their_characters(tiny):
    vocabulary = ["@@PADDING@@", "The", "same", "words", "."]
    module = elmo(tiny, vocab_to_cache=vocabulary)
    numbers = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0], [0, 0, 0, 0], [3, 3, 1, 0]])
    characters = batch_to_ids(TEXT)
    expected = module(characters)
    by_number = module(torch.zeros_like(characters), numbers)
    assert torch.equal(by_number["elmo_representations"][0], expected["elmo_representations"][0])
    assert torch.equal(by_number["mask"], expected["mask"])
    unknown = module(characters, torch.where(numbers == 4, 99, numbers))
    assert torch.equal(unknown["elmo_representations"][0], expected["elmo_representations"][0])


def test_more_dimensions_come_back(tiny):
    module = elmo(tiny)
    ids = batch_to_ids(TEXT)
    flat, folded = module(ids), module(ids.reshape(2, 1, 2, 4, 50))
    assert folded["mask"].shape == (2, 1, 2, 4)
    expected = flat["elmo_representations"][0]
    assert torch.equal(folded["elmo_representations"][0], expected.reshape(2, 1, 2, 4, -1))


@pytest.mark.parametrize("do_layer_norm", [False, True])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_batches_without_a_token(tiny, shape, do_layer_norm):
    output = elmo(tiny, do_layer_norm=do_layer_norm)(torch.zeros(*shape, 50, dtype=torch.long))
    assert output["elmo_representations"][0].shape == (*shape, 32)
    assert not output["elmo_representations"][0].any()
    assert not output["mask"].any()


def test_autocast_of_the_caller_does_not_round(tiny):
    module = elmo(tiny)
    ids = batch_to_ids(TEXT)
    with torch.autocast("cpu", torch.bfloat16):
        layers = module._run_bilm(ids[0].numpy(), [4])
    assert torch.equal(layers, module._run_bilm(ids[0].numpy(), [4]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 3, 16, dtype=torch.long), r"expected integers \[batch, timesteps, 50\]"),
        (torch.zeros(3, 50, dtype=torch.long), "expected integers"),
        (torch.zeros(2, 3, 50), "float32"),
        (torch.full((1, 1, 50), 262), "from 262 to 262, expected 0 to 261"),
        (torch.full((1, 1, 50), -1), "from -1"),
        (batch_to_ids(TEXT).flip(1), "padding"),
    ],
)
def test_wrong_ids_are_an_error(tiny, inputs, message):
    with pytest.raises(ElmoError, match=message):
        elmo(tiny)(inputs)


def test_words_by_number_without_a_vocabulary_are_an_error(tiny):
    with pytest.raises(ElmoError, match="vocab_to_cache"):
        elmo(tiny)(batch_to_ids(TEXT), torch.ones(4, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "num_output_representations is 0"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"scalar_mix_parameters": [1.0]}, "1 initial weights, expected one for each of the 3 layers"),
    ],
)
def test_wrong_settings_are_an_error(tiny, settings, message):
    with pytest.raises(ElmoError, match=message):
        elmo(tiny, **settings)


def test_a_bilm_that_reads_words_is_refused(tiny, tmp_path):
    options = json.loads((tiny / "options.json").read_bytes())
    del options["char_cnn"]
    from spacy_elmo.bilm import BiLM, BiLMOptions

    formats.write(BiLM(BiLMOptions.from_dict(options), ["<S>", "</S>", "<UNK>"]), tmp_path)
    with pytest.raises(ElmoError, match="reads words"):
        Elmo(None, tmp_path, 1)


def test_bundled_names_need_no_options(bundled_width):
    assert Elmo(None, "en_elmo_sm", 1).get_output_dim() == bundled_width


def test_the_package_imports_no_formats():
    code = "import sys, spacy_elmo.bilm; assert not {'spacy_elmo.formats', 'spacy', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- an existing biLM ---


def test_a_module_is_taken_as_it_is(tiny):
    bilm = formats.load(tiny)
    module = Elmo(None, None, 1, dropout=0.0, module=bilm)
    assert module.bilm is bilm
    ids = batch_to_ids(TEXT)
    expected = elmo(tiny)(ids)["elmo_representations"][0]
    assert torch.equal(module(ids)["elmo_representations"][0], expected)
    assert module.state_dict().keys() == elmo(tiny).state_dict().keys()


@pytest.mark.parametrize("trained", [False, True])
def test_a_module_keeps_its_gradients(tiny, trained):
    bilm = formats.load(tiny).requires_grad_(trained)
    module = Elmo(None, None, 1, module=bilm)
    module(batch_to_ids(TEXT))["elmo_representations"][0].sum().backward()
    assert all((parameter.grad is not None) == trained for parameter in bilm.parameters())


def test_files_beside_a_module_or_neither_are_an_error(tiny):
    bilm = formats.load(tiny)
    for files in ((None, tiny), (tiny / "options.json", None)):
        with pytest.raises(ElmoError, match="a module was given, so options_file and weight_file must be None"):
            Elmo(*files, 1, module=bilm)
    with pytest.raises(ElmoError, match="weight_file is None; name the weights, or pass a biLM as module"):
        Elmo(None, None, 1)
    with pytest.raises(ElmoError, match="module is a Linear, expected a BiLM"):
        Elmo(None, None, 1, module=torch.nn.Linear(1, 1))


# --- in a compiled model ---


class Classifier(torch.nn.Module):
    def __init__(self, elmo):
        super().__init__()
        self.elmo, self.output = elmo, torch.nn.Linear(elmo.get_output_dim(), 2)

    def forward(self, ids):
        found = self.elmo(ids)
        return (self.output(torch.relu(found["elmo_representations"][0])) * found["mask"][..., None]).sum(1)


@pytest.fixture
def compiler():
    """Return a backend of torch.compile that runs what it gets, and collects it in `graphs`."""

    def run(graph, _):
        run.graphs.append(graph)
        return graph.forward

    run.graphs = []
    yield run
    torch.compiler.reset()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_compiled_model_gives_the_numbers_and_gradients_of_an_eager_one(tiny, compiler, requires_grad):
    model = Classifier(elmo(tiny, requires_grad=requires_grad))
    compiled = torch.compile(model, backend=compiler)
    for text in (TEXT, TEXT[::-1] * 2, TEXT[:1], TEXT[1:]):
        ids, found = batch_to_ids(text), []
        for one in (model, compiled):
            model.zero_grad()
            scores = one(ids)
            scores.sum().backward()
            found.append([scores, *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)])
        torch.testing.assert_close(*found)
    targets = {node.target for graph in compiler.graphs for node in graph.graph.nodes}
    assert torch.relu in targets  # what the model does with the vectors is compiled


@pytest.mark.slow
def test_a_model_compiled_with_the_default_backend_gives_the_same(tiny):
    model, ids = Classifier(elmo(tiny)), batch_to_ids(TEXT)
    try:
        torch.testing.assert_close(torch.compile(model)(ids), model(ids))
    finally:
        torch.compiler.reset()


def test_a_compiled_model_that_encodes_sentences_gives_the_same(tiny, compiler):
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bilm = formats.load(tiny)

        def forward(self, sentences):
            top = [torch.from_numpy(layers[-1]) for layers in self.bilm.encode(sentences)]
            return torch.relu(torch.cat(top)), self.bilm.embed(sentences[0])

    model = Encoder()
    torch.testing.assert_close(torch.compile(model, backend=compiler)(TEXT), model(TEXT))


@pytest.mark.parametrize(
    ("made", "call"),
    [
        ("exported", lambda model, ids: torch.export.export(model, (ids,), strict=False)),
        ("traced", lambda model, ids: torch.jit.trace(model, ids)),
        ("scripted", lambda model, ids: torch.jit.script(model)),
    ],
)
def test_what_would_hold_one_batch_for_good_is_refused_in_one_line(tiny, made, call):
    module = elmo(tiny)
    for model in (module, Classifier(module)):
        with pytest.raises(ElmoError, match=f"^Elmo cannot be {made}, .*call it first"):
            call(model, batch_to_ids(TEXT))


def test_compile_is_not_imported_by_who_does_not_compile(tiny):
    code = (
        "import sys\nfrom spacy_elmo.bilm import Elmo, batch_to_ids\n"
        f"Elmo(None, {str(tiny)!r}, 1)(batch_to_ids([['A', 'word']]))\nprint('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- where you import it from ---


def test_both_names_are_found_where_they_always_were():
    from spacy_elmo import bilm
    from spacy_elmo.compat import allennlp

    assert bilm.Elmo is allennlp.Elmo
    assert bilm.batch_to_ids is allennlp.batch_to_ids
    assert {"Elmo", "batch_to_ids"} <= set(bilm.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'ELMo'"):
        bilm.ELMo  # noqa: B018


def test_the_network_alone_imports_neither_formats_nor_them():
    code = "import sys, spacy_elmo.bilm\nprint([name for name in sys.modules if 'compat' in name or 'formats' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "spacy_elmo" not in done.stdout


def test_a_module_pickled_whole_by_an_earlier_version_is_read(tiny, monkeypatch):
    module = elmo(tiny)
    with monkeypatch.context() as earlier:
        earlier.setattr(Elmo, "__module__", "spacy_elmo.bilm.elmo")
        pickled = pickle.dumps(module)
    assert b"spacy_elmo.bilm.elmo" in pickled
    ids = batch_to_ids(TEXT)
    expected, found = (one(ids)["elmo_representations"][0] for one in (module, pickle.loads(pickled)))
    assert torch.equal(found, expected)
