"""Memory of learners and engines: what must hold of it, and what is refused with which proposal."""

import copy
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM

from launch.cli.refusals import UserError
from launch.program import build
from launch.run import memory_plan
from launch.run.memory import GIB, Shape, engine_need, learner_need, responses_at_once, size
from launch.run.memory_plan import Device, device_of, memory_lines, needs, plan_memory, turns
from learner.deepspeed_settings import BUCKET_VALUES
from learner.lora import LoraConfig, attach
from rollout.config import PACKED_BYTES
from tests.composing import composed
from tests.model_folders import make_folder
from tests.places import CHAIN_MODEL

QWEN_7B = Shape(3584, 28, 28, 4, 128, 18944, 152064)


@pytest.fixture(scope="module")
def whole():
    """A run in bfloat16 with 4 learners."""
    chosen = ["model.dtype=bfloat16", "resources.num_learners=4", "learner.zero_stage=1"]
    return build(composed("train", "experiment=quickstart", *chosen))


@pytest.fixture
def config(whole):
    return copy.deepcopy(whole)


def test_stages_share_out_what_they_say(config):
    model = QWEN_7B.num_parameters
    found = {}
    for stage in (1, 2, 3):
        config.learner.zero_stage = stage
        found[stage] = learner_need(config, QWEN_7B, on_gpu=True).parts
    assert found[1]["optimiser"] == found[3]["optimiser"] == pytest.approx(12 * model / 4)
    assert found[1]["gradients"] > found[2]["gradients"] == pytest.approx(4 * model / 4)
    assert found[2]["weights"] == 2 * model
    assert found[3]["weights"] == 2 * model / 4
    # Of a model of 7 billion weights stage 3 has a billion whole at a time.
    assert found[3]["buffers"] - found[2]["buffers"] == pytest.approx(max(2e9, 4e9))


@pytest.mark.parametrize("on_gpu", [False, True])
def test_engines_that_are_sent_whole_weights_have_a_head_of_their_own(config, on_gpu):
    tied = replace(QWEN_7B, tied=True)
    head = 2 * tied.vocab_size * tied.hidden_size
    weights = engine_need(config, tied, on_gpu=on_gpu, room=0.0).parts["weights"]
    assert weights == 2 * tied.num_parameters + head == 2 * QWEN_7B.num_parameters
    config.learner.lora.rank, config.learner.lora.publish = 8, "adapters"
    weights = engine_need(config, tied, on_gpu=on_gpu, room=0.0).parts["weights"]
    assert weights == 2 * tied.num_parameters


def test_in_float32_a_step_joins_the_gradients_beside_themselves(config):
    """DeepSpeed has them flat from the start where weights have 16 bits only."""
    model = QWEN_7B.num_parameters
    config.model.dtype = "float32"
    found = {}
    for stage in (0, 1, 2, 3):
        config.learner.zero_stage = stage
        found[stage] = learner_need(config, QWEN_7B, on_gpu=True).parts
    gradients = [parts["gradients"] / model for parts in found.values()]
    assert gradients == pytest.approx([4, 4 + 1, 2, 1])
    assert found[0]["buffers"] == 0 and found[1]["buffers"] == 4 * BUCKET_VALUES
    config.learner.deepspeed = {"zero_optimization": {"reduce_bucket_size": 1000}}
    config.learner.zero_stage = 2
    assert learner_need(config, QWEN_7B, on_gpu=True).parts["buffers"] == 4000


def test_stage_3_begins_with_the_whole_model(config):
    config.learner.zero_stage, config.resources.num_learners = 3, 1024
    need = learner_need(config, QWEN_7B, on_gpu=True)
    assert need.total >= 2 * QWEN_7B.num_parameters + need.parts["process"]
    assert need.parts["start"] > 0
    config.resources.num_learners = 2
    assert learner_need(config, QWEN_7B, on_gpu=True).parts["start"] == 0


@pytest.mark.parametrize(
    ("stage", "dtype", "held"),
    [(1, "bfloat16", 18), (2, "float16", 18), (2, "float32", 24), (3, "bfloat16", 20)],
)
def test_what_is_offloaded_is_the_machines(config, stage, dtype, held):
    """As the tensors of DeepSpeed's engines on a CPU were counted, in bytes a value."""
    config.learner.zero_stage, config.model.dtype = stage, dtype
    before = learner_need(config, QWEN_7B, on_gpu=True)
    config.learner.deepspeed = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    after = learner_need(config, QWEN_7B, on_gpu=True)
    assert after.host == pytest.approx(held * QWEN_7B.num_parameters / 4)
    assert after.parts["optimiser"] == 0
    assert after.parts["gradients"] == (0 if stage == 3 else before.parts["gradients"])
    assert after.total <= before.total - before.parts["optimiser"] + after.parts.get("start", 0)
    assert "offloaded" in after.text()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "qwen3_moe", "mixtral"])
def test_adapters_are_counted_as_they_are(tmp_path, kind):
    folder = make_folder(tmp_path, kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model, LoraConfig(rank=3))
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert Shape.of_folder(str(folder)).adapter_parameters(3) == trained


def test_adapters_need_the_weights_and_little_else(config):
    config.learner.lora.rank = 16
    parts = learner_need(config, QWEN_7B, on_gpu=True).parts
    assert parts["gradients"] + parts["optimiser"] < 0.1 * parts["weights"]


def test_checkpoints_and_chunks_keep_less_of_a_row(config):
    def kept(**changes):
        changed = copy.deepcopy(config)
        changed.model.max_model_len = changed.learner.row_tokens = 8192
        for key, value in changes.items():
            setattr(changed.learner, key, value)
        return learner_need(changed, QWEN_7B, on_gpu=True).parts["activations"]

    assert kept(gradient_checkpointing=True) < kept() / 4
    assert kept(chunk_tokens=1024) < kept() / 3
    assert kept(row_tokens=16384) > 1.8 * kept()


def test_an_engine_gives_keys_and_values_the_rest_of_its_room(config):
    config.rollout.engine.kv_cache_gib = None
    need = engine_need(config, QWEN_7B, on_gpu=True, room=60 * GIB)
    assert need.total == pytest.approx(60 * GIB)
    # 2 x 28 layers x 512 wide x 2 bytes = 57,344 bytes a token, 512 of them a response.
    assert responses_at_once(config, QWEN_7B, need) == int(need.parts["KV cache"] / (57_344 * 512))


def test_what_fits_is_told_and_what_does_not_is_refused_with_what_would(config):
    config.rollout.engine.kv_cache_gib = None
    lines = memory_lines(config, QWEN_7B, Device(96 * GIB, on_gpu=True))
    assert lines["memory of a learner"].endswith("of 96.0 GiB")
    assert "prompts with full-length responses" in lines["memory of an engine"]
    with pytest.raises(
        UserError, match=r"^memory: a learner needs .* has 40\.0 GiB .*zero_stage="
    ) as e:
        memory_lines(config, QWEN_7B, Device(40 * GIB, on_gpu=True))
    assert str(e.value).endswith("would fit")
    with pytest.raises(UserError, match="take a smaller model"):
        memory_lines(config, QWEN_7B, Device(4 * GIB, on_gpu=True))


def test_weights_on_their_way_over_nccl_need_room_at_both_ends(config):
    config.rollout.engine.kv_cache_gib = None
    head = 2 * QWEN_7B.vocab_size * QWEN_7B.hidden_size
    packed = 2 * (PACKED_BYTES + head)
    # A learner has room for it where activations were, if these are more.
    config.learner.gradient_checkpointing, config.learner.row_tokens = True, 512
    config.learner.logits_chunk_tokens = 64
    parts = learner_need(config, QWEN_7B, on_gpu=True).parts
    assert parts["sending"] == packed - parts["activations"] > 0
    config.learner.zero_stage = 3
    parts = learner_need(config, QWEN_7B, on_gpu=True).parts
    assert parts["sending"] == 1.5 * packed - parts["activations"]
    config.learner.row_tokens = 65_536
    assert learner_need(config, QWEN_7B, on_gpu=True).parts["sending"] == 0
    # An engine has what vLLM leaves.
    config.learner.row_tokens = 512
    gpu = Device(96 * GIB, on_gpu=True)
    config.rollout.engine.gpu_memory_utilization = 0.9
    assert "memory" not in memory_lines(config, QWEN_7B, gpu)
    config.rollout.engine.gpu_memory_utilization = 0.99
    assert memory_lines(config, QWEN_7B, gpu)["memory"].startswith("may run out")
    config.resources.share_gpus, config.resources.engine_memory_share = True, 0.3
    learner, engine = needs(config, QWEN_7B, gpu, on_gpu=True)
    assert learner.parts["sending"] == 0
    assert engine.total == pytest.approx(0.3 * gpu.bytes)


def test_weights_on_their_way_over_cuda_ipc_lie_in_one_buffer(config):
    head = 2 * QWEN_7B.vocab_size * QWEN_7B.hidden_size
    assert head > PACKED_BYTES
    config.learner.gradient_checkpointing, config.learner.row_tokens = True, 512
    config.learner.logits_chunk_tokens = 64
    config.resources.share_gpus, config.resources.num_learners = True, 1
    parts = learner_need(config, QWEN_7B, on_gpu=True).parts
    assert parts["sending"] == head - parts["activations"] > 0
    # Where an engine wakes for it, what activations took has been given back.
    config.resources.engines_sleep = True
    learner = learner_need(config, QWEN_7B, on_gpu=True)
    assert learner.parts["sending"] == head
    assert learner.held == learner.total - learner.parts["activations"]
    config.resources.cuda_ipc = False
    assert learner_need(config, QWEN_7B, on_gpu=True).parts["sending"] == 0


def test_who_has_a_gpu_in_turn_needs_the_larger_of_two_and_not_their_sum(config):
    config.rollout.engine.kv_cache_gib = None
    config.resources.engines_sleep, config.resources.engine_memory_share = True, 0.3
    config.learner.gradient_checkpointing, config.learner.zero_stage = True, 3
    gpu = Device(96 * GIB, on_gpu=True)
    learner, engine = needs(config, QWEN_7B, gpu, on_gpu=True)
    assert engine.total == pytest.approx(0.3 * gpu.bytes)
    assert learner.held == learner.total - learner.parts["activations"]
    learning, generating = turns(learner, engine)
    assert learning < learner.total + engine.total > generating
    line = memory_lines(config, QWEN_7B, gpu)["memory of a shared GPU"]
    assert line.startswith(f"{size(learning)} while learners work and engines sleep, ")
    assert f"{size(generating)} while engines generate of 96.0 GiB" in line
    # More for the engine than beside what the learner holds there is.
    config.resources.engine_memory_share = 0.8
    told = (
        r"beside an engine of .* a learner holds .*; resources\.engine_memory_share=0\.2 would fit$"
    )
    with pytest.raises(UserError, match=told):
        memory_lines(config, QWEN_7B, gpu)


def test_all_processes_share_a_machine(config):
    shape = Shape.of_folder(str(CHAIN_MODEL))
    assert "memory of the machine" in memory_lines(config, shape, Device(24 * GIB, on_gpu=False))
    with pytest.raises(
        UserError, match=r"engines need .* each and learners .* the machine has 0\.5"
    ):
        memory_lines(config, shape, Device(GIB / 2, on_gpu=False))


def test_devices_elsewhere_are_known_if_the_configuration_says_so(config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config.resources.use_gpu = False
    assert device_of(config).on_gpu is False
    config.resources.address = "somewhere:6379"
    assert device_of(config) is None
    config.resources.use_gpu, config.resources.device_memory_gib = True, 80.0
    assert device_of(config) == Device(80 * GIB, on_gpu=True)


@pytest.mark.parametrize("use_gpu", [None, True])
@pytest.mark.parametrize(
    ("told", "visible", "gib"),
    [
        ("81920\n24576\n", "0,1", 24),
        ("[N/A]\n", "0", None),
        ("81920\n[Not Supported]\n", "0", None),
        ("81920\n", "MIG-7f3c1a9e-1111-2222-3333-444455556666", None),
    ],
)
def test_gpus_whose_memory_is_not_told_are_gpus(config, monkeypatch, told, visible, gib, use_gpu):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(memory_plan, "_ASK", ["printf", told])
    monkeypatch.setattr(memory_plan, "built_for_cpus", lambda: False)
    config.resources.use_gpu, config.model.path = use_gpu, str(CHAIN_MODEL)
    assert device_of(config) == (gib and Device(gib * GIB, on_gpu=True))
    lines = plan_memory(config)
    assert "memory of the machine" not in lines
    assert lines["memory of a learner"].endswith("of 24.0 GiB") == bool(gib)
    assert ("set resources.device_memory_gib" in lines.get("memory", "")) == (gib is None)
    config.resources.device_memory_gib = 40.0
    assert device_of(config) == Device(40 * GIB, on_gpu=True)


def test_packages_for_cpus_leave_gpus_alone(config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(memory_plan, "_ASK", ["printf", "81920\n"])
    monkeypatch.setattr(memory_plan, "built_for_cpus", lambda: True)
    config.resources.use_gpu = None
    assert device_of(config).on_gpu is False


def test_a_machine_without_gpus_is_one(config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config.resources.use_gpu = None
    for asked in (["false"], ["true"], ["/no/such/program"]):
        monkeypatch.setattr(memory_plan, "_ASK", asked)
        assert device_of(config).on_gpu is False


def test_what_learners_on_cpus_cannot_do_is_refused_with_the_plan(config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(memory_plan, "_ASK", ["false"])
    config.model.path = str(CHAIN_MODEL)
    plan_memory(config)
    config.learner.deepspeed = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    with pytest.raises(UserError, match=r"^learner\.deepspeed.* must be unset where the learner"):
        plan_memory(config)
    config.resources.address = "somewhere:6379"
    plan_memory(config)
    config.resources.address, config.learner.deepspeed = None, {}
    config.model.dtype = "float16"
    with pytest.raises(UserError, match=r"^model\.dtype must be float32 or bfloat16"):
        plan_memory(config)


def test_a_model_of_unknown_names_is_not_judged(config):
    assert Shape.of_settings({"model_type": "gpt2", "n_embd": 768}) is None
    assert memory_lines(config, None, Device(1, on_gpu=True)) == {}


def test_bytes_in_words():
    assert [size(1.5 * GIB), size(3 * 2**20)] == ["1.5 GiB", "3 MiB"]
