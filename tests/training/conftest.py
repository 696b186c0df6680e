import pytest
import torch

from gated_lpi.facts import FactSet, Relation, Sample
from gated_lpi.training import ModelSize, TrainingSpec
from gated_lpi.training.corpus import build_corpus
from gated_lpi.training.tokenizer import train_tokenizer

PAIRS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Peru": "Lima", "Chad": "N'Djamena"}
TEMPLATES = ("The capital of {} is", "{} is governed from", "In {} the capital is called", "{}'s capital is")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def facts():
    samples = tuple(Sample(subject, capital) for subject, capital in PAIRS.items())
    return FactSet((Relation("capital", TEMPLATES, samples),), "test")


@pytest.fixture(scope="session")
def corpus(facts):
    return build_corpus(facts)


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return train_tokenizer(corpus, 320)


@pytest.fixture(scope="session")
def spec():
    size = ModelSize(
        hidden=32, layers=2, heads=2, kv_heads=1, experts=4, expert_width=8, experts_per_token=2, vocab_size=320
    )
    return TrainingSpec(size=size, steps=6, batch_size=4, learning_rate=2e-3, warmup_steps=1, checkpoints=5, context=32)
