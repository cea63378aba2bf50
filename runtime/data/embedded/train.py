"""Train the committed artefacts anew and rewrite the manifests: `python -m runtime.data.embedded.train`.

For maintainers: it changes the data, so every run's id.
"""

from __future__ import annotations

from runtime.data.embedded import image, manifests, text, tokenizer, words


def main() -> None:
    """Train the tokenizer and the codebook on the training splits."""
    captions = [words.caption(digits) for digits, _ in image.pictures()["train"]]
    tokenizer.train([*text.documents()["train"], *captions])
    image.train_codebook()
    manifests.main()


if __name__ == "__main__":
    main()
