"""A tokenizer made for the corpus: byte-level BPE, so that any text encodes and most words are one token.

Every text starts with the boundary token, so that a prompt's first word has something before it. A space is
put before the first word, so that a word is the same token at the start of a sentence as within it.
"""

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from gated_lpi.training.corpus import Corpus

BOUNDARY = "<|endoftext|>"
PADDING = "<|padding|>"


def train_tokenizer(corpus: Corpus, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocab_size` tokens, 256 bytes and 2 special tokens among them."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOUNDARY, PADDING],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.texts, trainer)
    boundary = (BOUNDARY, tokenizer.token_to_id(BOUNDARY))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOUNDARY} $A", pair=f"{BOUNDARY} $A $B", special_tokens=[boundary]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOUNDARY,
        eos_token=BOUNDARY,
        pad_token=PADDING,
        padding_side="right",
    )
