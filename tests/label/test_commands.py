"""The commands of labelling: each is listed, has help, and is refused by one line where it is none."""

import pytest

from prefrl import cli
from prefrl.cli import LABEL_COMMANDS


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse(["label", "--help"])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert printed.startswith("usage: prefrl label")
    assert list(LABEL_COMMANDS) == ["make", "serve", "status", "export"]
    for name in LABEL_COMMANDS:
        assert f"\n{name}: " in printed


@pytest.mark.parametrize("name", list(LABEL_COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse(["label", name, "--help"])
    assert not stop.value.code
    assert capsys.readouterr().out.startswith(f"usage: prefrl label {name}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label"], "no step of labelling is named; there are make, serve, status, export"),
        (["label", "sevre"], "there is no step of labelling 'sevre'; did you mean serve?"),
    ],
)
def test_what_is_no_command(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
