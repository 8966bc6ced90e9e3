"""Secrets: refused in plain text, and written down as references to the environment alone."""

import pytest
from omegaconf import OmegaConf

from conf.secrets import check_secrets, recorded

KEY = "sk-0123456789abcdef0123"


@pytest.mark.parametrize(
    "key",
    ["api_key", "apikey", "API_KEY", "openai_api_key", "access_token", "hf_token", "password",
     "secret", "client_secret", "aws_secret_access_key", "credentials", "private_key"],
)  # fmt: skip
def test_a_plug_may_not_hold_a_secret_in_plain_text(key):
    config = OmegaConf.create({"reward": {"_target_": "a.B", "settings": {key: "hush"}}})
    with pytest.raises(
        ValueError, match=rf"^reward\.settings\.{key} must not .*oc\.env"
    ) as refusal:
        check_secrets(config)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [KEY, f"--key={KEY}", "https://me:hush@judge/v1", "ray://:hush@head:10001",
     "ghp_0123456789abcdef0123", "hf_0123456789abcdef0123", "sk-ant-api03-0123456789abcdef0123",
     "AKIA0123456789ABCDEF"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_refused_wherever_it_stands(text):
    with pytest.raises(ValueError, match=r"^base\[1\] must not hold a secret") as refusal:
        check_secrets(OmegaConf.create({"base": ["fine", text]}))
    assert text not in str(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"stop_token": "</answer>", "max_tokens": 3, "keyword": "answer", "key": "value"},
        {"api_key": "", "password": None, "tokenizer": "a/b", "answer_key": "final"},
        {"url": "https://judge:8000/v1?a=b@c", "at": "12:30 @ noon", "path": "a/hf_model-of-mine"},
        {"a": "runs/hf_quickstart_baseline-20261128", "b": "sk-learn-baselines-20261128-140151"},
        {"api_key": "${oc.env:JUDGE}", "token_budget": "8k"},
    ],
)
def test_what_is_no_secret_passes(settings):
    check_secrets(OmegaConf.create({"reward": {"_target_": "a.B", **settings}}))


def test_settings_of_no_plug_may_name_secrets():
    check_secrets(OmegaConf.create({"kuberay": {"token_secret": "ray-token", "secret": "keys"}}))


def test_what_comes_from_the_environment_is_recorded_as_a_reference(monkeypatch):
    monkeypatch.setenv("JUDGE", KEY)
    monkeypatch.setenv("STEPS", "7")
    config = OmegaConf.create(
        {
            "key": "${oc.env:JUDGE}",
            "header": "Bearer ${key}",
            "nested": {"of": ["${oc.env:JUDGE}", {"deep": "${header}"}]},
            "copied": "${nested}",
            "decoded": "${oc.decode:${oc.env:STEPS}}",
            "default": "${oc.env:NOT_THERE,none}",
            "plain": "${steps} steps",
            "steps": 7,
            "null": None,
            "missing": "???",
        }
    )
    found = recorded(config)
    assert KEY not in repr(found)
    assert found["plain"] == "7 steps"
    assert (found["decoded"], found["null"], found["missing"]) == (7, None, "???")
    again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(found)))
    del config["missing"], again["missing"]
    resolved = OmegaConf.to_container(config, resolve=True)
    assert OmegaConf.to_container(again, resolve=True) == resolved
    assert resolved["header"] == f"Bearer {KEY}"


@pytest.mark.parametrize("text", ["${a}", "\\${a}", "\\\\${a} $b {c}", "$${a}", "${", "plain"])
def test_a_record_means_what_it_was_made_from(text):
    """Also where a text only looks like an interpolation."""
    quoted = text.replace("\\", "\\\\").replace("${", "\\${") if "${" in text else text
    config = OmegaConf.create({"text": quoted})
    again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(recorded(config))))
    assert again.text == config.text
