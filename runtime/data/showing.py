"""Examples of a source, decoded to files that people can look at and listen to."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from runtime.data.cache import load
from runtime.data.decoding import Decoded, Picture, Text, decode

_MARGIN = 8
_LINE = 14
_PER_ROW = 4


def show(data: str, study_folder: Path, out: Path, n: int = 8) -> list[Path]:
    """Decode `n` evenly spaced held-out sequences of source `data` into the folder `out`; returns what was written.

    Texts are lines of one file per segment, pictures one contact sheet per segment, and everything else is a file each.
    Raises DataError as `load` and `decode` do.
    """
    source = load(data, study_folder)
    split = source.split("held_out")
    vocabularies = {vocabulary.name: vocabulary for vocabulary in source.manifest.vocabularies}
    chosen = [i * len(split) // n for i in range(min(n, len(split)))]
    examples: list[list[Decoded]] = [
        [
            decode(vocabularies[segment.vocabulary], tokens)
            for segment, tokens in zip(source.manifest.segments, split.segments(i), strict=True)
        ]
        for i in chosen
    ]
    out.mkdir(parents=True, exist_ok=True)
    captions = [next((part.text for part in example if isinstance(part, Text)), "") for example in examples]
    written: list[Path] = []
    for segment, parts in zip(source.manifest.segments, zip(*examples, strict=True), strict=True):
        stem = out / f"{data.rpartition('/')[2]}.{segment.vocabulary}"
        pictures = [part for part in parts if isinstance(part, Picture)]
        texts = [part.text for part in parts if isinstance(part, Text)]
        if texts:
            written.append(Text("\n\n".join(texts)).save(stem))
        if pictures:
            path = stem.with_name(f"{stem.name}.png")
            contact_sheet(pictures, captions).save(path)
            written.append(path)
        for number, part in enumerate(parts):
            if not isinstance(part, Text | Picture):
                written.append(part.save(stem.with_name(f"{stem.name}.{number}.{captions[number].replace(' ', '-')}")))
    return written


def contact_sheet(pictures: list[Picture], captions: list[str]) -> Image.Image:
    """All `pictures` in rows, each above its caption."""
    images = [picture.image() for picture in pictures]
    width = max(image.width for image in images) + _MARGIN
    height = max(image.height for image in images) + _MARGIN + _LINE
    rows = -(-len(images) // _PER_ROW)
    sheet = Image.new("L", (width * min(_PER_ROW, len(images)) + _MARGIN, height * rows + _MARGIN), 224)
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = i % _PER_ROW * width + _MARGIN, i // _PER_ROW * height + _MARGIN
        sheet.paste(image, (left, top))
        draw.text((left, top + image.height), caption, fill=0)
    return sheet
