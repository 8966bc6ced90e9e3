"""The command line of `launch.submit` and its settings."""

import pytest

from conf.submit import KubeRayConfig, NodeConfig, SlurmConfig, SubmitConfig
from launch.submit import split_arguments


def test_arguments_split_at_the_first_dashes():
    assert split_arguments(["a=1", "--", "b=2", "--", "c"]) == (["a=1"], ["b=2", "--", "c"])
    assert split_arguments(["a=1"]) == (["a=1"], [])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SubmitConfig(name="My run"), "name must be at most 47 lower-case"),
        (lambda: SubmitConfig(name="a" * 48), "name must be at most 47 lower-case"),
        (lambda: SubmitConfig(name="a", form="pbs"), "form must be one of"),
        (lambda: SubmitConfig(name="a", program="bench"), "program must be one of"),
        (lambda: SubmitConfig(name="a", env=["A B"]), "env must hold names of environment var"),
        (lambda: SubmitConfig(name="a", env=["MY_API_KEY"]), "put the name into secrets"),
        (lambda: SlurmConfig(partition="a\n#SBATCH --x"), "slurm.partition must be letters"),
        (lambda: KubeRayConfig(claim="A_b"), "kuberay.claim must be at most 253 lower-case"),
        (lambda: NodeConfig(gpus=-1), "node.gpus must not be negative"),
    ],
)
def test_settings_outside_their_range_name_their_key(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}|{sentence}"):
        make()
