import pytest

from reformer_hf.hub.tokens import find_token, hide_tokens
from tests.hub.conftest import TOKEN

OTHER = "hf_" + "b" * 34


def test_where_tokens_come_from(hub, monkeypatch, tmp_path):
    assert find_token(f" {OTHER}\n") == OTHER
    assert find_token() == TOKEN
    monkeypatch.delenv("HF_TOKEN")
    assert find_token() is None
    (tmp_path / "hf_home").mkdir(exist_ok=True)
    (tmp_path / "hf_home" / "token").write_text(OTHER + "\n")
    assert find_token() == OTHER


@pytest.mark.parametrize("given", ["", " ", "hf_a b", "hf_a\nx", "hf_é" + "x" * 40, "hf_\x00"])
def test_what_cannot_be_a_token_is_not_shown(given):
    with pytest.raises(ValueError, match="the token is empty, or holds spaces") as error:
        find_token(given)
    assert not given.strip() or given.strip() not in str(error.value)


def test_what_looks_like_a_token_is_hidden():
    text = f"a short {OTHER}, hf_oauth_{'x.y-' * 9} and api_org_{'c' * 34}!"
    assert hide_tokens(text, "short") == "a hf_… hf_…, hf_… and hf_…!"
    assert hide_tokens("hf_hub_download(...)") == "hf_hub_download(...)"
