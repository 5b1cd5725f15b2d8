import dataclasses
import inspect
from typing import get_args, get_type_hints

import pytest

from spacy_elmo.bilm.model import MAX_BATCH_TOKENS
from spacy_elmo.cli import elmo_cli
from spacy_elmo.formats.hdf5_file import StoredDtype
from spacy_elmo.pretraining.config import Size
from spacy_elmo.tools.embedding.settings import EmbedSettings
from spacy_elmo.tools.init_config import Optimize
from spacy_elmo.tools.projection import Method
from spacy_elmo.tools.visualize import Color

COMMANDS = {command.name: command.callback for command in elmo_cli.registered_commands}


def parameter(command, name):
    """Return the parameter as typer sees it."""
    return inspect.signature(COMMANDS[command]).parameters[name]


@pytest.mark.parametrize(
    ("command", "name", "of_the_function"),
    [
        ("convert", "dtype", StoredDtype),
        ("init-config", "optimize", Optimize),
        ("init-config", "size", Size),
        ("visualize", "color", Color),
        ("visualize", "method", Method),
        ("embed", "engine", get_type_hints(EmbedSettings)["engine"]),
    ],
)
def test_choices_are_those_of_the_function_and_others_are_wrong_usage(elmo, command, name, of_the_function):
    assert [choice.value for choice in parameter(command, name).annotation] == [*get_args(of_the_function)]
    status, _, said = elmo(command, "a", "b", f"--{name}", "no-such")
    assert status == 2
    assert all(choice in said for choice in get_args(of_the_function))


@pytest.mark.parametrize("setting", dataclasses.fields(EmbedSettings), ids=lambda setting: setting.name)
def test_embed_has_an_option_for_each_setting(setting):
    shown = parameter("embed", setting.name).default
    assert shown.default == setting.default
    assert shown.help == setting.metadata["help"]


def test_embed_works_on_as_many_tokens_at_once_as_the_bilm():
    assert EmbedSettings().max_batch_tokens == MAX_BATCH_TOKENS


def test_settings_that_exclude_each_other_are_one_line(elmo, tmp_path):
    status, _, said = elmo("embed", "text.txt", tmp_path / "out.h5", "--carry-state", "--engine", "ray")
    assert (status, len(said.splitlines())) == (1, 1)
    assert "carry_state needs the text in order" in said
