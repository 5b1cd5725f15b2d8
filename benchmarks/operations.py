"""Options of a biLM and sentences in, how many operations they take out.

Operations are those of the matrix products (a multiplication and an addition each); biases, activations and gates are
free. They are counted twice:

needed: what the text requires. The character CNN once for each distinct word, BOS and EOS among them, and in its
    windows only the positions that hold a character or a border of the word; the highways and the projection once for
    each distinct word; the LSTMs for every token, BOS and EOS included.
nominal: what the architecture says word by word. The whole character CNN for every token (BOS and EOS included) at all
    windows of the full character width; the LSTMs as above. No sentence padding.
"""

from engines import Sentences

from spacy_elmo.bilm import BiLMOptions, CharCNNOptions, characters


def n_tokens(sentences: Sentences) -> int:
    """Tokens of the text, without BOS and EOS."""
    return sum(len(sentence) for sentence in sentences)


def needed_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations the text requires; see the head of this file."""
    words = {characters.BOS, characters.EOS, *(word for sentence in sentences for word in sentence)}
    cnn = char_cnn_options(options)
    ids = (characters.token_ids(word, cnn.max_characters_per_token) for word in words)
    convolutions = sum(
        2 * number * cnn.embedding_dim * positions_in_windows(len(word), size, cnn.max_characters_per_token)
        for word in ids
        for size, number in cnn.filters
    )
    return convolutions + len(words) * word_operations(options) + lstm_operations(options, sentences)


def nominal_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations of the architecture, word by word; see the head of this file."""
    cnn = char_cnn_options(options)
    full = cnn.max_characters_per_token
    convolutions = sum(2 * number * cnn.embedding_dim * (full - size + 1) * size for size, number in cnn.filters)
    tokens = n_tokens(sentences) + 2 * len(sentences)
    return tokens * (convolutions + word_operations(options)) + lstm_operations(options, sentences)


def positions_in_windows(length: int, size: int, full: int) -> int:
    """Positions of a word that fall into the windows starting in it, counted once for each window."""
    return sum(min(size, length - start) for start in range(min(length, full - size + 1)))


def word_operations(options: BiLMOptions) -> int:
    """Operations of the highways and the projection for one word."""
    cnn, width = char_cnn_options(options), options.lstm.projection_dim
    projection = cnn.n_filters * width if cnn.n_filters != width else 0
    return 2 * (cnn.n_highway * 2 * cnn.n_filters**2 + projection)


def lstm_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations of all LSTM layers, both directions, BOS and EOS included."""
    lstm = options.lstm
    projection = lstm.dim * lstm.projection_dim if lstm.dim != lstm.projection_dim else 0
    per_token = 2 * lstm.n_layers * 2 * (2 * lstm.projection_dim * 4 * lstm.dim + projection)
    return (n_tokens(sentences) + 2 * len(sentences)) * per_token


def char_cnn_options(options: BiLMOptions) -> CharCNNOptions:
    """Return the options of the character CNN, which every model here has."""
    assert options.char_cnn is not None
    return options.char_cnn
