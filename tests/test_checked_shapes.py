import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor, nn

from reformer_hf.ops.hashing import hash_vectors
from tests.checked_shapes import check_each_form_once, form

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
    forms += [torch.zeros(3), (1, 2), [1, 2], (1, torch.zeros(2)), linear, nn.Linear(2, 3)]
    assert len({form(value) for value in forms}) == len(forms)
    assert form(torch.ones(2)) == form(torch.zeros(2)) and form(linear) == form(linear)


def test_the_functions_of_the_package_are_checked():
    with pytest.raises(TypeCheckError, match="hash_vectors"):
        hash_vectors(torch.zeros(2), torch.zeros(2), 2)
