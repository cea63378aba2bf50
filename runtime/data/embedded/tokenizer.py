"""The byte-level BPE that all captions and texts share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from compiler.manifest import VocabularyManifest

FILE = Path(__file__).parent / "artefacts" / "tokenizer.json"
SIZE = 512


def train(documents: Iterable[str]) -> None:
    """Train the tokenizer on `documents` and write it to `FILE`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.save(str(FILE))
    load.cache_clear()


@cache
def load() -> Tokenizer:
    """The committed tokenizer."""
    return Tokenizer.from_file(str(FILE))


def vocabulary() -> VocabularyManifest:
    """Its entry in a manifest."""
    return VocabularyManifest(name="text", size=SIZE, fingerprint=hashlib.sha256(FILE.read_bytes()).hexdigest()[:16])
