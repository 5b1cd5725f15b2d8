"""What all commands share: how they are listed, spelled and stopped, and how they warn."""

import inspect
import re
import signal
import warnings

import pytest
from typer import Exit

from spacy_elmo import __version__
from spacy_elmo.cli import elmo_cli
from spacy_elmo.cli.output import failing_clearly

COMMANDS = {command.name: command for command in elmo_cli.registered_commands}
WITH_FORCE = [name for name, command in COMMANDS.items() if "force" in inspect.signature(command.callback).parameters]


def test_summaries_end_whole(elmo):
    shown = re.sub(r"[\s│]+", " ", elmo("--help").stdout)
    for name, command in COMMANDS.items():
        assert command.short_help.endswith("."), name
        assert command.short_help in shown, name


def test_version(elmo):
    assert elmo("--version") == (0, f"spacy-elmo {__version__}\n", "")


@pytest.mark.parametrize("name", WITH_FORCE)
def test_force_is_spelled_alike_everywhere(elmo, name):
    shown = elmo(name, "--help").stdout
    assert "-f" in [word.strip(",") for word in shown.split()]
    assert "-F" not in shown


def test_the_earlier_spelling_of_force_is_taken(elmo, tmp_path):
    path = tmp_path / "pretrain.cfg"
    path.touch()
    assert elmo("init-config", path, "--pretrain").status == 1
    assert elmo("init-config", path, "--pretrain", "-F").status == 0
    assert elmo("init-config", path, "--pretrain", "-qF") == (0, "", "")


def test_ctrl_c_is_one_line_and_status_130(capsys):
    @failing_clearly
    def command():
        raise KeyboardInterrupt

    with pytest.raises(Exit) as ended:
        command()
    assert ended.value.exit_code == 128 + signal.SIGINT
    assert capsys.readouterr() == ("", "✘ stopped\n")


@pytest.mark.parametrize(("quiet", "said"), [(False, "⚠ look out\n"), (True, "")])
def test_warnings_are_a_line_each_unless_it_is_to_be_quiet(capsys, quiet, said):
    @failing_clearly
    def command(quiet):
        warnings.warn("look out", stacklevel=1)

    command(quiet=quiet)
    assert capsys.readouterr().err == said


def test_warnings_that_are_not_for_the_user_go_their_usual_way():
    @failing_clearly
    def command():
        warnings.warn("in a year", FutureWarning, stacklevel=1)

    with pytest.warns(FutureWarning, match="in a year"):
        command()


def test_layers_that_mean_something_elsewhere_are_refused_with_what_may_be_wanted(elmo, tmp_path):
    (tmp_path / "text.txt").write_text("a b\n")
    status, _, said = elmo("embed", tmp_path / "text.txt", tmp_path / "out.npz", "--layers", "concat")
    assert status == 1
    assert 'perhaps you want "all" (each layer by itself)' in said
