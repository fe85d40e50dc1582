from collections.abc import Callable

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor, nn

from reformer_hf.ops.hashing import hash_vectors
from tests.checked_shapes import check_each_form_once, form, names_a_shape, passed

MADE = {"rows": 2}


@check_each_form_once(typechecker=beartype)
def make(like: Float[Tensor, "rows dim"], *, rows: int | None = None) -> Float[Tensor, "rows dim"]:
    return torch.zeros(rows or MADE["rows"], like.shape[1])


def test_what_is_wrong_is_refused_each_time():
    assert make(torch.zeros(2, 3)).shape == make(torch.zeros(2, 3), rows=2).shape == (2, 3)
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="return value"):
            make(torch.zeros(3, 3))  # has passed with another shape
        with pytest.raises(TypeCheckError, match="return value"):
            make(torch.zeros(2, 3), rows=3)  # or with another number
        with pytest.raises(TypeCheckError, match="parameters"):
            make(torch.zeros(2, 3, dtype=torch.int64))
        with pytest.raises(TypeCheckError, match="parameters"):
            make(torch.zeros(2))


def test_the_same_form_is_checked_once(monkeypatch):
    make(torch.zeros(2, 4))
    monkeypatch.setitem(MADE, "rows", 5)
    assert make(torch.zeros(2, 4)).shape == (5, 4)
    with pytest.raises(TypeCheckError):
        make(torch.zeros(2, 5))


def test_forms_tell_apart_what_shapes_may_depend_on():
    linear = nn.Linear(2, 3)
    forms = [
        1,
        2,
        1.0,
        True,
        "a",
        "b",
        None,
        torch.float32,
        torch.int64,
        torch.zeros(2),
        torch.zeros(2).double(),
    ]
    forms += [torch.zeros(3), (1, 2), [1, 2], (1, torch.zeros(2)), linear, nn.Linear(2, 4)]
    forms += [nn.Linear(2, 3).eval(), nn.Linear(2, 3, bias=False), nn.Linear(2, 3).double()]
    forms += [nn.Dropout(0.1), nn.Dropout(0.2), nn.Sequential(linear), nn.Sequential(nn.Tanh())]
    assert len({form(value) for value in forms}) == len(forms)
    assert form(torch.ones(2)) == form(torch.zeros(2)) and form(linear) == form(nn.Linear(2, 3))
    grown = nn.Sequential(nn.Linear(2, 3))
    before = form(grown)
    grown.append(nn.Tanh())
    assert form(grown) != before and form(nn.Linear.__new__(nn.Linear)) != form(linear)
    assert form(id(linear)) == form(id(forms)), "addresses are no sizes"


@check_each_form_once(typechecker=beartype)
def note(tensor: Tensor, known: list) -> int | None:
    return None if known else len(tensor)


def test_what_a_list_holds_counts_only_where_a_shape_is_named():
    for known in ([], [1], [1, 2]):
        note(torch.zeros(2), known)
    checks = [key for key in passed if key[0] == id(note.__wrapped__.__code__)]
    assert len(checks) == 2
    with pytest.raises(TypeCheckError):
        note(torch.zeros(2), (1,))
    assert names_a_shape(Float[Tensor, " n"] | None) and names_a_shape("Float[Tensor, ' n']")
    assert names_a_shape(Callable[[Float[Tensor, " n"]], Tensor])
    assert not names_a_shape(Callable[[Tensor], dict[str, Tensor]]) and not names_a_shape("Tensor")


def test_the_functions_of_the_package_are_checked():
    with pytest.raises(TypeCheckError, match="hash_vectors"):
        hash_vectors(torch.zeros(2), torch.zeros(2), 2)
