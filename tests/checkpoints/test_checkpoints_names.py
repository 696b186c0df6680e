"""Names of branches, repositories and folders as public suites have them."""

import pytest

from gated_lpi.checkpoints import parse_count, parse_counts, parse_name, reason_against
from gated_lpi.checkpoints.names import SCHEMES, repository_tokens, stage_order
from gated_lpi.errors import OptionError

B, T = 10**9, 10**12


@pytest.mark.parametrize(
    ("name", "scheme", "stage", "step", "tokens"),
    [
        ("step5000-tokens20B", "step-tokens", "", 5000, 20 * B),  # OLMoE
        ("step1220000-tokens5117B", "step-tokens", "", 1_220_000, 5117 * B),
        ("step0-tokens0B", "step-tokens", "", 0, 0),  # OLMo
        ("stage1-step928646-tokens3896B", "stage-step-tokens", "stage1", 928_646, 3896 * B),  # OLMo 2
        ("stage2-ingredient3-step11931-tokens100B", "stage-step-tokens", "stage2-ingredient3", 11_931, 100 * B),
        ("stage1-step1413814", "stage-step", "stage1", 1_413_814, None),  # Olmo 3
        ("stage3-step11921", "stage-step", "stage3", 11_921, None),
        ("step143000", "step", "", 143_000, None),  # Pythia
        ("step0", "step", "", 0, None),
        ("stage1-step-40000", "stage-step", "stage1", 40_000, None),  # SmolLM3
        ("lc-4k-to-32k-step-20000", "long-context-step", "lc-4k-to-32k", 20_000, None),
        ("lc-32k-to-64k-step-4000", "long-context-step", "lc-32k-to-64k", 4000, None),
        ("step50000-tokens210B", "step-tokens", "", 50_000, 210 * B),  # Apertus
        ("step2627139-tokens15T", "step-tokens", "", 2_627_139, 15 * T),
        ("checkpoint-400000", "step", "", 400_000, None),  # Stanford's GPT-2, Trainer
        ("step_100", "step", "", 100, None),
        ("global_step500", "step", "", 500, None),
        ("iter_0000500", "step", "", 500, None),
        ("step10-tokens1.5T", "step-tokens", "", 10, 3 * T // 2),
    ],
)
def test_a_step_of_a_series(name, scheme, stage, step, tokens):
    found = parse_name(name)
    assert (found.scheme, found.stage, found.step, found.tokens) == (scheme, stage, step, tokens)


def test_a_count_of_checkpoints_is_no_step():
    found = parse_name("ckpt_010")
    assert (found.scheme, found.step, found.index) == ("index", None, 10)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("main", "default branch"),
        ("stage2-step47684-mix-a-from-stage1-step1413814", "side run: '-mix-a-from-stage1-step1413814' follows"),
        ("step100-tokens5B-anneal", "side run: '-anneal' follows"),
        ("step-1-tmp", "side run: '-tmp' follows"),
        ("ckpt_003-final", "side run: '-final' follows"),
        ("it-SFT", "instruction tuning"),
        ("it-mid-training", "instruction tuning"),
        ("anneal-from-step600000", "names no step"),
        ("refs/pr/1", "names no step"),
        ("step", "names no step"),
        ("revision-12b", "names no step"),
    ],
)
def test_other_names_are_refused_with_the_reason(name, reason):
    assert parse_name(name) is None
    assert reason in reason_against(name)


@pytest.mark.parametrize(
    ("repo", "tokens"),
    [
        ("inclusionAI/Ling-mini-base-2.0-5T", 5 * T),
        ("inclusionAI/Ling-mini-base-2.0-20T", 20 * T),
        ("OrionZheng/openmoe-8b-400B", 400 * B),
        ("OrionZheng/openmoe-8b-1T", T),
        ("OrionZheng/openmoe-8b", None),
        ("allenai/OLMo-7B", None),  # parameters, not tokens
        ("allenai/OLMoE-1B-7B-0924", None),
        ("meta-llama/Llama-3.1-405B", None),
        ("inclusionAI/Ling-mini-base-2.0", None),
    ],
)
def test_tokens_at_the_end_of_a_repository(repo, tokens):
    assert repository_tokens(repo) == tokens


def test_every_scheme_reads_its_own_example():
    assert [parse_name(scheme.example).scheme for scheme in SCHEMES] == [scheme.name for scheme in SCHEMES]


def test_stages_are_in_training_order():
    stages = ["lc-32k-to-64k", "stage10", "stage2-ingredient2", "", "stage2", "lc-4k-to-32k", "stage2-ingredient10"]
    assert sorted(stages, key=stage_order) == [
        "",
        "stage2",
        "stage2-ingredient2",
        "stage2-ingredient10",
        "stage10",
        "lc-4k-to-32k",
        "lc-32k-to-64k",
    ]


def test_counts():
    assert parse_counts("0, 5000,20B,1.5t") == [0, 5000, 20 * B, 3 * T // 2]
    for text in ("", "-5", "five", "5 B"):
        with pytest.raises(OptionError, match="Expected a number such as 5000"):
            parse_count(text)
