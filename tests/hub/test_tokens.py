import pytest

from reformer_hf.hub.tokens import find_token, hide_tokens
from tests.hub.conftest import TOKEN

OTHER = "hf_" + "b" * 34


def test_where_tokens_come_from(hub, monkeypatch, tmp_path):
    assert find_token(f" {OTHER}\n").value == OTHER
    assert find_token(OTHER).source == "the argument `token`"
    assert (find_token(None).value, find_token(None).source) == (TOKEN, "the variable HF_TOKEN")
    monkeypatch.delenv("HF_TOKEN")
    assert find_token(None) is None
    (tmp_path / "hf_home").mkdir(exist_ok=True)
    (tmp_path / "hf_home" / "token").write_text(OTHER + "\n")
    assert (find_token(None).value, find_token(None).source) == (OTHER, "`hf auth login`")


@pytest.mark.parametrize("given", ["", " ", "hf_a b", "hf_a\nx", "hf_é" + "x" * 40, "hf_\x00"])
def test_what_cannot_be_a_token_is_not_shown(given):
    with pytest.raises(ValueError, match="the argument `token` is no token") as error:
        find_token(given)
    assert not given.strip() or given.strip() not in str(error.value)


def test_a_token_does_not_show_itself():
    token = find_token("short")
    assert "short" not in f"{token} {token!r} {[token]}"
    text = hide_tokens(f"a short {OTHER}, hf_oauth_{'x.y-' * 9} and api_org_{'c' * 34}!", token)
    assert text == "a hf_… hf_…, hf_… and hf_…!"
    assert hide_tokens("hf_hub_download(...)") == "hf_hub_download(...)"
