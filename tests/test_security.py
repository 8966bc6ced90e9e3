"""What can run code or fill the memory for the content of a file, and the one reason for each.

A new place has to be put on a list here, with why it is safe.
"""

import ast

from tests.places import PROJECT
from tests.test_layering import FILES

DANGEROUS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "marshal.loads", "shelve.open", "dill.loads", "cloudpickle.loads",
    "joblib.load", "torch.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "OmegaConf.load", "instantiate", "hydra.utils.instantiate", "get_object",
    "import_module", "importlib.import_module", "importlib.util.spec_from_file_location",
}  # fmt: skip
ALLOWED = {
    ("rollout/rewards/child.py", "pickle.loads"): "from its parent, over a pair of sockets",
    ("rollout/own_code.py", "pickle.loads"): "what the same process pickled",
    ("rollout/own_code.py", "importlib.import_module"): "the plug that the user names",
    ("rollout/own_code.py", "importlib.util.spec_from_file_location"): "likewise, a file",
    ("rollout/tasks/files.py", "importlib.import_module"): "the package pyarrow",
    ("rollout/tasks/rows.py", "importlib.import_module"): "the package datasets",
    ("rollout/sandbox/init.py", "exec"): "in a sandbox: what it is for",
    ("rollout/sandbox/init.py", "eval"): "likewise",
    ("rollout/sandbox/init.py", "compile"): "likewise",
    ("rollout/sandbox/judge.py", "exec"): "the task's own tests, in a sandbox",
    ("rollout/sandbox/judge.py", "compile"): "likewise",
    ("rollout/rewards/code_tests.py", "compile"): "whether tests are Python; nothing is run",
    ("launch/cli/built.py", "instantiate"): "the configuration that the user runs",
    ("conf/own_code.py", "get_object"): "likewise, before it is built",
    ("launch/cli/plug_values.py", "get_object"): "likewise",
    ("launch/cli/own_code.py", "OmegaConf.load"): "files of conf/",
    ("launch/cli/hydra_errors.py", "OmegaConf.load"): "files of conf/",
    ("launch/cli/recipe_files.py", "OmegaConf.load"): "files of conf/ and of --config-dir",
    ("launch/cli/held_out.py", "OmegaConf.load"): "files of conf/",
    ("conf/reference.py", "get_object"): "names of conf/",
    ("conf/reference.py", "OmegaConf.load"): "files of conf/",
    ("conf/targets.py", "import_module"): "names of this project's packages",
    ("launch/record/plain_yaml.py", "yaml.load"): "a SafeLoader without aliases",
    ("launch/study/simulation/measured.py", "instantiate"): "after require_own_settings",
    ("launch/study/simulation/profile_file.py", "instantiate"): "after require_own_settings",
}
"""Everything else reads data only: JSON, npz without pickle, safetensors, yaml.safe_load."""
LOADERS = [
    f"{kind}.from_pretrained" for kind in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM")
]


def calls(path):
    for node in ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), {k.arg: k.value for k in node.keywords}


def test_nothing_runs_the_content_of_a_file_but_for_a_reason():
    found = {(path, name) for path in FILES for _, name, _ in calls(path) if name in DANGEROUS}
    assert found == set(ALLOWED)


def test_no_shell_is_given_a_line():
    assert [each for path in FILES for *each, given in calls(path) if "shell" in given] == []


def test_models_run_no_code_that_comes_with_them():
    places = [(path, *call) for path in FILES for call in calls(path)]
    loads = [each for each in places if each[2] in LOADERS]
    assert loads
    for path, line, name, given in loads:
        trusts = given.get("trust_remote_code")
        assert isinstance(trusts, ast.Constant) and trusts.value is False, f"{path}:{line}"
        if name.startswith("AutoModel") and "gguf_file" not in given:
            assert "use_safetensors" in given, f"{path}:{line}"
