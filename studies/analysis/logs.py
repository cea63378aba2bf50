"""What a study's runs log as they train: every row, or what a figure needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from compiler.records import MIX
from studies.analysis.digests import STRETCHES, Digest, columns, digest_runs
from studies.analysis.reading import Layout, repeated, scan_metrics
from studies.analysis.rows import BANDS

KEPT = ".digests.json"
"""The file beside `plan.json` that holds the digests of a study with many rows. It may be deleted."""

_COARSE = (1, 2, 3, 4, 6, 8, 12, 18, 24, 36)
"""Numbers of stretches that are put together to one point of a curve."""
_RATES = ("tokens_per_second", "padding", "data_wait", "mfu")


@dataclass(frozen=True)
class Logs:
    """The rows of a study in `folder`, read when they are first asked for. `files` are the `metrics.jsonl`, by run."""

    folder: Path
    layout: Layout
    files: dict[str, Path]

    @cached_property
    def rows(self) -> pl.DataFrame:
        """Every row: see `Study.metrics`."""
        frames = [self.layout.read_metrics(run, path)[0] for run, path in self.files.items()]
        return pl.concat([pl.DataFrame(schema=self.layout.metrics), *frames])

    @cached_property
    def digests(self) -> dict[str, Digest]:
        """By run, what `studies.analysis.digests` keeps of its rows."""
        return digest_runs(self.files, self.layout.modalities, self.folder / KEPT)

    @cached_property
    def stretches(self) -> pl.DataFrame:
        """The digests as one table: `id`, then `digests.columns`."""
        names = columns(self.layout.modalities)
        tables = {run: digest.table(self.layout.modalities) for run, digest in self.digests.items()}
        ids = repeated(list(tables), [len(table) for table in tables.values()])
        together = np.concatenate([np.empty((0, len(names))), *tables.values()])
        return pl.DataFrame(together, schema=names).insert_column(0, ids)

    def scan(self) -> pl.LazyFrame:
        """See `Study.scan_metrics`."""
        if "rows" in self.__dict__:  # read already
            return self.rows.lazy()
        return scan_metrics(({}, self.layout, run, path) for run, path in self.files.items())

    def read(self) -> None:
        """Read it all now."""
        _ = self.rows, self.digests

    def curves_of(self, points: int) -> pl.DataFrame:
        """See `Study.curves_of`."""
        names = {"loss": MIX, **{f"loss:{name}": name for name in self.layout.modalities if name != MIX}}
        placed = self.stretches.filter(pl.col("tokens") > 0)
        for coarse in _COARSE:
            put = placed.group_by("id", (pl.col("stretch") // coarse).alias("place"), maintain_order=True).agg(
                pl.exclude("rows", "step", "seen", "seconds", "stretch").sum(), pl.col("rows").sum()
            )
            if sum(int((put[f"count:{name}"] > 0).sum()) for name in names) <= points:
                break
        long = pl.concat(
            put.filter(pl.col(f"count:{name}") > 0).select(
                "id",
                pl.lit(modality).alias("modality"),
                (pl.col("tokens") / pl.col("rows")).alias("tokens"),
                (pl.col(f"sum:{name}") / pl.col(f"count:{name}")).alias("loss"),
                pl.col(f"count:{name}").cast(pl.Int64).alias("rows"),
            )
            for name, modality in names.items()
        )
        # Only thousands of runs do not fit at the coarsest: then every so many of them are drawn.
        every = max(1, -(-len(long) // max(points, 1)))
        kept = list(self.files)[::every]
        return long if every == 1 else long.filter(pl.col("id").is_in(kept)).head(points)

    def utilisation(self) -> pl.DataFrame:
        """See `Study.utilisation`."""
        # The first stretch holds the first step, in which kernels are chosen and caches filled.
        later = (pl.col("stretch") > pl.col("stretch").min()) | (pl.col("stretch").min() == pl.col("stretch").max())
        return self.stretches.group_by("id", maintain_order=True).agg(
            pl.col("rows").sum().cast(pl.Int64),
            pl.col("step").last().cast(pl.Int64),
            pl.col("seen").last().cast(pl.Int64).alias("tokens"),
            pl.col("seconds").last(),
            *(_mean(name, later) for name in _RATES),
        )

    def bands(self) -> pl.DataFrame:
        """See `Study.bands`."""
        late = pl.col("stretch") > pl.col("stretch").max() - STRETCHES
        wide = self.stretches.group_by("id", maintain_order=True).agg(
            _mean(f"band:{k + 1}", late).alias(str(k + 1)) for k in range(BANDS)
        )
        return (
            wide.unpivot(index="id", variable_name="band", value_name="loss")
            .with_columns(pl.col("band").cast(pl.Int64))
            .drop_nulls()
            .sort("id", "band")
        )


def _mean(name: str, where: pl.Expr) -> pl.Expr:
    count = pl.col(f"count:{name}").filter(where).sum()
    return pl.when(count > 0).then(pl.col(f"sum:{name}").filter(where).sum() / count).alias(name)
