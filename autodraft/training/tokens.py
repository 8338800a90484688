"""From text to token streams: the byte-level BPE and the cached encoded corpus.

Knows the tokenizer and its special tokens; knows nothing about windows, batches or the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from autodraft.training.corpus import Corpus, SourceFile

BOS, EOS = "<s>", "</s>"
TokenStream = NDArray[np.uint16]


@dataclass(frozen=True)
class EncodedCorpus:
    """Each side as one stream: bos, file, eos, bos, file, eos, ..."""

    tokenizer: PreTrainedTokenizerFast
    training: TokenStream
    held_out: TokenStream
    held_out_bytes: int


def train_tokenizer(texts: Sequence[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`; adds no special tokens by itself when encoding."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of `text`, without special tokens and without warnings about its length."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def encode_files(tokenizer: PreTrainedTokenizerFast, files: Sequence[SourceFile]) -> TokenStream:
    """All files as one stream, each between bos and eos."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id

    def pieces() -> Iterator[TokenStream]:
        for first in range(0, len(files), 64):
            texts = [file.text for file in files[first : first + 64]]
            for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
                yield np.array([bos, *encoding.ids, eos], dtype=np.uint16)

    return np.concatenate(list(pieces()))


def prepare(corpus: Corpus, folder: Path, vocab_size: int, context: int) -> EncodedCorpus:
    """Train the tokenizer and encode the corpus, or read both back if `folder` already has them."""
    held_out_bytes = sum(len(file.text.encode()) for file in corpus.held_out)
    stamp = {"corpus": corpus.fingerprint, "vocab_size": vocab_size, "context": context}
    done = folder / "done.json"
    if done.exists() and json.loads(done.read_text()) == stamp:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        training, held_out = np.load(folder / "training.npy"), np.load(folder / "held_out.npy")
        return EncodedCorpus(tokenizer, training, held_out, held_out_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([file.text for file in corpus.training], vocab_size, context)
    training = encode_files(tokenizer, corpus.training)
    held_out = encode_files(tokenizer, corpus.held_out)
    tokenizer.save_pretrained(folder / "tokenizer")
    np.save(folder / "training.npy", training)
    np.save(folder / "held_out.npy", held_out)
    done.write_text(json.dumps(stamp))
    return EncodedCorpus(tokenizer, training, held_out, held_out_bytes)
