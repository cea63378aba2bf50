"""The section that shows what runs have sampled."""

from __future__ import annotations

import base64
from itertools import groupby

from studies.analysis.page import card, escape, note
from studies.analysis.report.sections import Section
from studies.analysis.results import Study
from studies.analysis.samples import Sample, read_samples


def samples(study: Study) -> list[Section]:
    """Text, images and sound from the runs' folders, a card for each run; none where there are none."""
    kept, out = read_samples(study)
    if not kept and not out:
        return []
    cards = [
        card(run, f'<div class="close">{"".join(map(_sample, found))}</div>')
        for run, found in groupby(kept, key=lambda sample: sample.run)
    ]
    left = note("Left out", out) if out else ""
    text = "What runs have sampled, from the folder <code>samples/</code> of each."
    return [Section("samples", "Samples", text, html="".join(cards) + left)]


def _sample(sample: Sample) -> str:
    if sample.kind == ".txt":
        shown = f"<pre>{escape(sample.data.decode(errors='replace'))}</pre>"
    else:
        data = base64.b64encode(sample.data).decode()
        named = escape(sample.name)
        if sample.kind == ".png":
            shown = f'<img src="data:image/png;base64,{data}" alt="Sample {named}">'
        else:
            source = f'src="data:audio/wav;base64,{data}"'
            shown = f'<audio controls preload="none" aria-label="Sample {named}" {source}></audio>'
    return f'<figure class="sample"><figcaption>{escape(sample.name)}</figcaption>{shown}</figure>'
