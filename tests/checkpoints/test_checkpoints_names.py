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
        ("step-0334000_tokens-0700B-phase1", "step-phase", "phase1", 334_000, 700 * B),
        ("step100-phase2", "step-phase", "phase2", 100, None),
        ("CrystalCoder_phase2_checkpoint_018000", "phase-checkpoint", "phase2", 18_000, None),
        ("phase3-step-500", "phase-checkpoint", "phase3", 500, None),
        ("step0050000", "step", "", 50_000, None),  # Lucie
        ("extension_step0001220", "later-stage-step", "extension", 1220, None),
        ("annealing-step-100", "later-stage-step", "annealing", 100, None),
        ("base_0720000", "base-step", "base", 720_000, None),  # K2-V2
        ("mid_1_0012500", "mid-step", "mid_1", 12_500, None),
        ("mid_3_0000500", "mid-step", "mid_3", 500, None),
        ("step69369-seed-default", "step-seed", "seed-default", 69_369, None),  # DataDecide
        ("step0-seed-large-aux-2", "step-seed", "seed-large-aux-2", 0, None),
        ("step1000-seed-1-tokens5B", "step-seed", "seed-1", 1000, 5 * B),
        ("step1000-seed-large-aux-2-tokens5B", "step-seed", "seed-large-aux-2", 1000, 5 * B),
        ("step1000_seed42", "step-seed", "seed-42", 1000, None),
        ("step5000-tokens20B-seed-2", "step-tokens-seed", "seed-2", 5000, 20 * B),
        ("stage1-step1000-seed-3", "stage-step-seed", "stage1-seed-3", 1000, None),
        ("stage2_step1000_tokens5B_seed7", "stage-step-seed", "stage2-seed-7", 1000, 5 * B),
        ("mid_1_step0010000", "mid-step", "mid_1", 10_000, None),
        ("base_step500", "base-step", "base", 500, None),
        ("Crystal_Coder_v1.5_phase2_checkpoint_018000", "phase-checkpoint", "phase2", 18_000, None),
        ("step-125000", "step", "", 125_000, None),  # SmolLM2
        ("iter_0005473", "step", "", 5473, None),  # FLAME-MoE's folders
    ],
)
def test_a_step_of_a_series(name, scheme, stage, step, tokens):
    found = parse_name(name)
    assert (found.scheme, found.stage, found.step, found.tokens) == (scheme, stage, step, tokens)


@pytest.mark.parametrize(
    ("name", "counts", "number"),
    [
        ("chck_10M", "words", 10**7),  # BabyLM
        ("chck_1000M", "words", 10**9),
        ("words-2.5B", "words", 25 * 10**8),
        ("bytes-20B", "bytes", 20 * B),
        ("bytes512", "bytes", 512),
        ("step-512", "steps", 512),
    ],
)
def test_words_and_bytes_are_neither_steps_nor_tokens(name, counts, number):
    found = parse_name(name)
    assert (found.counts, found.step, found.tokens, found.index) == (counts, number, None, None)


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
        ("base_720", "names no step"),  # too short to be meant as a step of that suite
        ("base_0720000_final", "side run: '_final' follows the step"),
        ("mid_final", "names no step"),
        ("mid_1_final", "names no step: the last of its run or stage"),
        ("final", "names no step: the last of its run or stage"),
        ("step5-seed-tokens5B", "'-seed-tokens5B' follows the step"),
        ("step5-seedling", "'-seedling' follows the step"),
        ("stage1_phase2_step_5", "names no step"),  # a stage is no part of a model's name, to be dropped unsaid
        ("a_seed-3_phase2_step_5", "names no step"),
        ("chck_10M-ema", "side run: '-ema' follows the number of words"),
        ("chck_9223373T", "tells a step of 19 digits"),
        ("step5-seed-", "'-seed-' follows"),
        ("step" + "9" * 22, "tells a step of 22 digits, more than 9,223,372,036,854,775,807, the largest number"),
        ("step" + "9" * 5000, "tells a step of 5000 digits"),
        ("step9223372036854775808", "tells a step of 19 digits"),
        ("step" + "9" * 5000 + "-mix", "side run: '-mix' follows"),
        ("step5-" + "x" * 5000, "characters) follows the step"),
        ("step1-tokens" + "9" * 5000, "tells tokens of 5000 digits"),
        ("step1-tokens9223373T", "tells tokens of 19 digits"),
        ("step1-tokens9223372036854775.808K", "tells tokens of 19 digits"),
        ("stage1-step" + "9" * 22, "tells a step of 22 digits"),
        ("ckpt_" + "9" * 22, "tells a number of 22 digits"),
        ("step\u0661\u0662", "names no step"),  # Arabic digits, which int() reads
        ("step\uff11", "names no step"),  # fullwidth
        ("step1-tokens5\u212a", "'-tokens5\u212a' follows"),  # the sign of kelvin, whose lower case is k
        ("\u017ftep5", "names no step"),  # the long s, whose upper case is S
        ("step\u00b2", "names no step"),
        ("step1\n", "names no step"),
        ("step1\0", "names no step"),
        ("step\ud800", "names no step"),
        ("step-1e5", "names no step"),
        ("", "names no step"),
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


@pytest.mark.parametrize("repo", ["a/b-" + "9" * 22 + "T", "a/b-" + "9" * 5000 + "T", "a/b-\u0665T", "a/b-9223373T"])
def test_a_repository_whose_tokens_cannot_be_stored_tells_none(repo):
    assert repository_tokens(repo) is None


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("step1-tokens9223372036854775807", 2**63 - 1),
        ("step1-tokens9223372T", 9_223_372 * T),
        ("step1-tokens9.223372036854775807T", 9_223_372_036_854),
        ("step1-tokens0.9999999999999999999999999999999999999999K", 999),
        ("step1-tokens" + "0" * 5000 + "7B", 7 * B),
        ("step1-tokens1." + "0" * 5000 + "B", B),
    ],
)
def test_tokens_are_read_exactly(name, tokens):
    assert parse_name(name).tokens == tokens


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


def test_numbers_of_any_length_have_an_order():
    long = "stage" + "9" * 5000
    assert sorted([long, "stage" + "1" + "0" * 5000, "stage12", "stage\u0663"], key=stage_order) == [
        "stage12",
        long,
        "stage" + "1" + "0" * 5000,
        "stage\u0663",
    ]


def test_counts():
    assert parse_counts("0, 5000,20B,1.5t") == [0, 5000, 20 * B, 3 * T // 2]
    for text in ("", "-5", "five", "5 B", "\u0661", "5\u212a", "1e5", "nan", "5\0", "\ud800", "x" * 5000):
        with pytest.raises(OptionError, match="Expected a number such as 5000") as caught:
            parse_count(text)
        assert len(str(caught.value).encode()) < 300
    for text in ("9" * 22, "9" * 5000, "9223372036854775808", "9223373T", "20B,9223373T"):
        with pytest.raises(OptionError, match=r"was given, more than 9,223,372,036,854,775,807, the largest"):
            parse_counts(text)
    assert parse_count("9223372036854775807") == 2**63 - 1
