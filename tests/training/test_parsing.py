from dataclasses import dataclass

import pytest
import torch

from reformer_hf.training.arguments import argument
from reformer_hf.training.parsing import parse_arguments, readable_errors


@dataclass
class Colours:
    _argument_group_name = "colours"
    hue: str = argument("red", "Which colour.")
    shades: int = argument(3, "How many.")
    bright: bool = argument(False, "Whether it shines.")


@pytest.mark.parametrize(
    "name, text",
    [("a.yaml", "hue: blue\nbright: true\n"), ("a.json", '{"hue": "blue", "bright": true}')],
)
def test_a_file_gives_defaults_and_the_command_line_replaces_them(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (colours,) = parse_arguments([Colours], [str(tmp_path / name), "--shades", "5"])
    assert colours == Colours("blue", 5, True)
    (colours,) = parse_arguments([Colours], [str(tmp_path / name), "--hue", "green"])
    assert colours == Colours("green", 3, True)
    assert parse_arguments([Colours], []) == (Colours(),)


@pytest.mark.parametrize(
    "text, message",
    [
        ("hues: blue", "there is no argument 'hues'"),
        ("- hue", "holds no names with values"),
        ("hue: [", "cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments([Colours], [str(tmp_path / "a.yaml")])
    with pytest.raises(OSError):
        parse_arguments([Colours], [str(tmp_path / "missing.yaml")])


def test_help_has_a_description_and_groups(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_arguments([Colours], ["--help"], "Paint.\n\n    paint --hue red\n")
    printed = capsys.readouterr().out
    assert "colours:" in printed and "Which colour." in printed
    assert "\n    paint --hue red\n" in printed
    with pytest.raises(ValueError, match="--shade"):
        parse_arguments([Colours], ["--shade", "3"])


@pytest.mark.parametrize(
    "error, code",
    [(None, 0), (ValueError("x"), 1), (OSError("x"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_become_a_message_and_a_status(capsys, error, code):
    with readable_errors() as status:
        if error is not None:
            raise error
    assert status.code == code
    assert ("error: x" in capsys.readouterr().err) == (code == 1)


def test_a_defect_is_not_hidden():
    with pytest.raises(KeyError), readable_errors():
        raise KeyError("a defect")


def test_of_an_error_in_a_worker_the_cause_is_shown(capsys):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise ValueError("a.txt: byte 3: not UTF-8 text;\n save it")

    with readable_errors() as status:
        list(torch.utils.data.DataLoader(Rows(), num_workers=1))
    assert status.code == 1
    assert capsys.readouterr().err == "error: a.txt: byte 3: not UTF-8 text; save it\n"
