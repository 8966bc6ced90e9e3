"""A warm start from a given model: what is learned, and which models are refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.models import WarmStartConfig
from launch.cli.refusals import UserError
from launch.models.conversations import conversations, read_base
from launch.models.warmstart import make_batches, warm_start
from rollout.environments.tools import ToolEnvironment
from rollout.tasks.calculations import CalculationTask
from rollout.tools.calculator import Calculator
from tests.model_folders import make_folder, make_tokenizer

SCRIPT = "rollout.tasks.calculations:turns"
NO_TOOLS = (
    "{% for m in messages %}{% if m['role'] != 'tool' %}{{ '<|' + m['role'] + '|>' + m['content'] "
    "+ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
RAISES = "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}" + (
    "{% endif %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
)


@pytest.fixture(autouse=True)
def restored_torch():
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("base") / "model", dtype="bfloat16")


def config_of(base, **settings):
    given = {
        "task": CalculationTask(split="warm_start", num_prompts=4),
        "environment": ToolEnvironment([Calculator()], describe="none"),
        "script": SCRIPT,
        "batch_tokens": 900,
    }
    return WarmStartConfig(base=str(base), **(given | settings))


def test_only_the_models_own_turns_are_learned(base):
    config = config_of(base, steps=6)
    folder, tokenizer = read_base(config)
    taught = conversations(config, folder, tokenizer)
    answers = {p.answer for p in config.task.prompts(tokenizer)}
    assert len(taught) == 12
    for token_ids, labels in make_batches(config, tokenizer, taught):
        assert token_ids.numel() <= config.batch_tokens
        for ids, targets in zip(token_ids.tolist(), labels.tolist(), strict=True):
            text = tokenizer.decode(ids).rstrip().replace("<|pad|>", "")
            learned = tokenizer.decode([t for t in targets if t != -100])
            question, call, rest = text.split("<|assistant|>")[0], *text.split("<|assistant|>")[1:]
            call, heard = call.split("<|end|>", 1)
            assert learned == f"{call}<|end|>{rest}"
            assert call.startswith('<tool_call>\n{"name": "calculator", "arguments": ')
            assert heard == f"<|tool|>{rest}" and rest.removesuffix("<|end|>") in answers
            assert question.startswith("<|user|>")
            assert all(t in (-100, i) for t, i in zip(targets, ids, strict=True))


def test_the_base_is_taught_and_stays_what_it_was_otherwise(base, tmp_path):
    config = config_of(base, out=str(tmp_path / "taught"), steps=3, lr=1e-2, warmup_steps=0)
    out = warm_start(config)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in (base, out)
    )
    assert after.dtype == before.dtype == torch.bfloat16
    assert after.config.architectures == before.config.architectures
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    old, new = (AutoTokenizer.from_pretrained(path) for path in (base, out))
    assert old.get_vocab() == new.get_vocab() and old.chat_template == new.chat_template


def test_what_is_taught_is_learned(base, tmp_path, capsys):
    one = CalculationTask(split="warm_start", num_prompts=1)
    warm_start(
        config_of(base, task=one, out=str(tmp_path / "m"), steps=40, schedule_steps=80, log_every=1,
                  lr=3e-3, warmup_steps=2)
    )  # fmt: skip
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert losses[-1] < 0.5 * losses[0]


def with_template(base, tmp_path, template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return make_folder(tmp_path / "other", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, r"^base must have a chat template, .* choose a model with one"),
        (NO_TOOLS, r"^environment.role .* chat template of base .* set environment.role=user"),
        (RAISES, r"^environment.role .* chat template of base .* set environment.role=user"),
    ],
)
def test_a_template_that_cannot_hold_the_conversation_is_refused(base, tmp_path, template, said):
    config = config_of(with_template(base, tmp_path, template), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=said) as refused:
        warm_start(config)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base": "nowhere"}, r"^base must be a Hugging Face folder"),
        ({"script": "no_such_module:turns"}, r"^script: cannot be imported"),
        ({"script": "rollout.tasks.calculations:no"}, r"^script: must name a function"),
        ({"batch_tokens": 512, "environment": ToolEnvironment([Calculator()], describe="none",
                                                              max_turns=1)},
         r"^script must end the play with its last turn"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_learned(base, tmp_path, settings, said):
    config = config_of(**({"base": base, "out": str(tmp_path / "out")} | settings))
    with pytest.raises(UserError, match=said):
        warm_start(config)


@pytest.mark.parametrize("missing", ["task", "environment", "script"])
def test_a_base_needs_all_that_makes_conversations(missing):
    with pytest.raises(ValueError, match=f"^{missing} must be given with base, and only with it"):
        config_of("models/mine", **{missing: None})
    with pytest.raises(ValueError, match="must be given with base"):
        WarmStartConfig(script=SCRIPT)
