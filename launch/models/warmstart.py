"""The warm start: teach a made Llama of 0.6 M weights the chain task, from nothing.

With `subject=calculator` a smaller one is taught to call a tool, see `rollout.tasks.calculator`.
With `architecture` the pupil is of another shape, taught the same. With `base` it is a given model,
which learns the conversations of a script, see `launch.models.conversations`.

    Teacher -> worked solutions with mistakes -> supervised fine-tuning -> Hugging Face folder

The run stops before the pupil has caught up with its teacher, and the teacher makes mistakes that a
pupil copies; reinforcement learning then has two things to gain, skill and reliability. The
curriculum is needed: without it no run learned the task. Two runs with one seed on one machine give
the same bits, because everything counts steps, never seconds, on a fixed number of torch threads.
"""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.models import WarmStartConfig
from launch.cli.refusals import UserError
from launch.models.conversations import Example, conversations, read_base
from rollout.tasks.calculator import CALL_BEGIN, CALL_END, CalculatorTeacher, draw_products
from rollout.tasks.chain import HELD_OUT_ONE_IN, NUM_STEPS, Teacher, draw_chain
from rollout.tasks.prompts import is_held_out

if TYPE_CHECKING:
    import torch

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
_IGNORED = -100
_POOL_EXAMPLES = 256


def build_tokenizer(subject: str = "chain") -> Any:
    """Make the byte-level tokenizer: five special tokens and 256 bytes, no merges.

    For the calculator task a tool's role, and what a call begins and ends with, are tokens too.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    roles = ["<|user|>", "<|assistant|>", "<|system|>"]
    if subject == "calculator":
        roles.append("<|tool|>")
        core.add_special_tokens(["<|tool|>"])
        core.add_tokens([AddedToken(text, normalized=False) for text in (CALL_BEGIN, CALL_END)])
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=roles,
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_model(seed: int, subject: str = "chain", architecture: str = "llama") -> Any:
    """Make the untrained policy: for chains 624,128 float32 weights as a Llama, about as many else.

    Args:
        seed: Of the initial weights.
        subject: "chain", or "calculator", whose models have half as many weights.
        architecture: "llama"; "qwen3", which normalises queries and keys as well (624,320); or
            "gpt_neox" (612,544): every head has keys of its own, half of its dimensions know
            positions, attention and MLP are added side by side, with biases and layer norms, and
            the head is not the embedding.
    """
    import torch
    import transformers

    calculates = subject == "calculator"
    config: dict[str, Any] = {
        "vocab_size": len(SPECIAL_TOKENS) + 256 + 3 * calculates,
        "hidden_size": 96 if calculates else 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 3 if calculates else 4,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    if architecture == "gpt_neox":
        prefix = "GPTNeoX"
        config |= {
            "intermediate_size": 304 if calculates else 448,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5
            },
            "tie_word_embeddings": False,
        }  # fmt: skip
    else:
        prefix = {"llama": "Llama", "qwen3": "Qwen3"}[architecture]
        config |= {
            "intermediate_size": 256 if calculates else 384,
            "num_key_value_heads": 1 if calculates else 2,
            "head_dim": 32,
            "tie_word_embeddings": True,
        }
    torch.manual_seed(seed)
    model: Any = getattr(transformers, f"{prefix}ForCausalLM")
    return model(getattr(transformers, f"{prefix}Config")(**config))


def longest_chain(step: int, schedule_steps: int) -> int:
    """Give the curriculum's largest number of steps: 3 at first, all of them from half way on."""
    progress = step / schedule_steps
    if progress < 0.15:
        return 3
    return min(NUM_STEPS[-1], int(3 + (progress - 0.15) / 0.35 * 23))


def learning_rate(config: WarmStartConfig, step: int) -> float:
    """Give the learning rate of a step: warm-up, then cosine to 5%."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = min(1.0, step / config.schedule_steps)
    rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
    return rate


def make_batches(
    config: WarmStartConfig, tokenizer: Any, taught: Sequence[Example] | None = None
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Yield one batch a step: `token_ids` [B, T] int64 padded with 0, and `labels` [B, T].

    Labels are -100 on the prompt, on what a tool says and on padding; the end token is learned.
    Examples of one batch have similar lengths.

    Args:
        config: The warm start's.
        tokenizer: The pupil's.
        taught: What is gone over again and again; None for examples that are fresh all along.
    """
    import torch

    rng = random.Random(config.seed)
    waiting: list[list[Example]] = []
    for step in range(config.steps):
        if not waiting:
            pool = _fresh(config, tokenizer, rng, step) if taught is None else taught
            waiting = _cut(pool, config.batch_tokens)
            rng.shuffle(waiting)
        batch = waiting.pop()
        width = max(len(ids) for ids, _ in batch)
        token_ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full((len(batch), width), _IGNORED)
        for row, (ids, own) in enumerate(batch):
            token_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids)] = torch.tensor(
                [token if learned else _IGNORED for token, learned in zip(ids, own, strict=True)]
            )
        yield token_ids, labels


def _fresh(config: WarmStartConfig, tokenizer: Any, rng: random.Random, step: int) -> list[Example]:
    longest = longest_chain(step, config.schedule_steps)
    lengths = [k for k in NUM_STEPS if k <= longest]
    return [
        _conversation(rng, config.calculator, tokenizer)
        if config.subject == "calculator"
        else _example(rng, lengths, config.teacher, tokenizer)
        for _ in range(_POOL_EXAMPLES)
    ]


def _example(rng: random.Random, lengths: list[int], teacher: Teacher, tokenizer: Any) -> Example:
    chain = draw_chain(rng, lengths)
    while is_held_out(chain.question, HELD_OUT_ONE_IN):
        chain = draw_chain(rng, lengths)
    prompt = tokenizer.encode(f"<|user|>{chain.question}<|end|><|assistant|>")
    response = tokenizer.encode(f"{teacher.solve(chain, rng)}<|end|>")
    return [*prompt, *response], [False] * len(prompt) + [True] * len(response)


def _conversation(rng: random.Random, teacher: CalculatorTeacher, tokenizer: Any) -> Example:
    chain = draw_products(rng)
    while is_held_out(chain.question, HELD_OUT_ONE_IN):
        chain = draw_products(rng)
    ids: list[int] = tokenizer.encode(f"<|user|>{chain.question}<|end|><|assistant|>")
    own = [False] * len(ids)
    for i, text in enumerate(teacher.converse(chain, rng)):
        said = f"<|tool|>{text}<|end|><|assistant|>" if i % 2 else f"{text}<|end|>"
        tokens = tokenizer.encode(said)
        ids += tokens
        own += [i % 2 == 0] * len(tokens)
    return ids, own


def _cut(examples: Sequence[Example], batch_tokens: int) -> list[list[Example]]:
    batches: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda e: len(e[0])):
        if (len(batches[-1]) + 1) * len(example[0]) > batch_tokens:
            batches.append([])
        batches[-1].append(example)
    return batches


def warm_start(config: WarmStartConfig) -> Path:
    """Train the policy and save it with its tokenizer.

    Returns:
        The checkpoint folder.

    Raises:
        UserError: If the folder exists already, or the base is none or cannot hold conversations.
    """
    import torch

    out = Path(config.out)
    if out.exists():
        raise UserError(f"out must be a folder that does not exist yet, got {config.out!r}")
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    taught, dtype = None, torch.float32
    if config.base is None:
        tokenizer = build_tokenizer(config.subject)
        model = build_model(config.seed, config.subject, config.architecture)
    else:
        folder, tokenizer = read_base(config)
        taught = conversations(config, folder, tokenizer)
        model, dtype = _loaded(folder)
        _tell(taught)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    for step, (token_ids, labels) in enumerate(make_batches(config, tokenizer, taught)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        # Padding is on the right, where causal attention cannot see it, so that no mask is needed.
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(input_ids=token_ids, use_cache=False).logits[:, :-1]
        loss: Any = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            print(f"step {step + 1}/{config.steps} loss {loss.item():.4f}", flush=True)
    model.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def _loaded(folder: str) -> tuple[Any, "torch.dtype"]:
    """Load a model in float32, in which small steps move weights; and say what it is saved in."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given: dict[str, Any] = {"local_files_only": True}
    saved = AutoConfig.from_pretrained(folder, trust_remote_code=False, **given).dtype
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **given
    )
    return model, saved or torch.float32


def _tell(taught: Sequence[Example]) -> None:
    total = sum(len(ids) for ids, _ in taught)
    learned = sum(sum(own) for _, own in taught)
    print(f"{len(taught)} conversations, {total:,} tokens, {learned:,} of them learned", flush=True)
