"""TCGA Pan-Cancer: bulk RNA-seq of 10,535 samples of 33 cancers, as UCSC Xena provides it."""

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from pyroscvi.data.download import download

COUNTS_URL = "https://toil-xena-hub.s3.us-east-1.amazonaws.com/download/tcga_gene_expected_count.gz"
PHENOTYPE_URL = (
    "https://tcga-pancan-atlas-hub.s3.us-east-1.amazonaws.com/download/TCGA_phenotype_denseDataOnlyDownload.tsv.gz"
)
GENES_AT_ONCE = 2000  # genes that are read at once


def tcga(
    folder: str | Path | None = None, *, counts: str = COUNTS_URL, phenotype: str = PHENOTYPE_URL,
    sha256: tuple[str | None, str | None] = (None, None),
) -> AnnData:  # fmt: skip
    """Counts of the samples of TCGA, samples x genes; their cancers are in ``obs["primary_disease"]``.

    folder             where downloads (about 700 MB) and the finished ``tcga.h5ad`` are kept; None: the user's cache
    counts, phenotype  addresses of the two tables
    sha256             checksums that they must have: ``download``

    Counts are RSEM's expected counts, rounded: the table holds log2(count + 1). Genes are Ensembl identifiers with a
    version. ``obs`` has sample_type ("Primary Tumor", "Solid Tissue Normal", ...) and primary_disease too.

    References
        Vivian, J. et al. (2017) Toil enables reproducible, open source, big biomedical data analyses. Nat Biotechnol
        35, 314-316. doi:10.1038/nbt.3772
        Goldman, M. J. et al. (2020) Visualizing and interpreting cancer genomics data via the Xena platform. Nat
        Biotechnol 38, 675-678. doi:10.1038/s41587-020-0546-8
    """
    files = [download(url, folder, known) for url, known in zip((counts, phenotype), sha256, strict=True)]
    finished = files[0].parent / "tcga.h5ad"
    if not finished.exists():
        partial = finished.with_suffix(".partial.h5ad")
        _read(*files).write_h5ad(partial)
        os.replace(partial, finished)
    return anndata.read_h5ad(finished)


def _read(counts: Path, phenotype: Path) -> AnnData:
    pieces, genes, samples = [], [], pd.Index([])
    with pd.read_csv(counts, sep="\t", index_col=0, chunksize=GENES_AT_ONCE, compression="gzip") as chunks:
        for chunk in chunks:
            values = np.exp2(chunk.to_numpy(np.float64)) - 1
            pieces.append(sparse.csr_matrix(np.rint(values).astype(np.float32)))
            genes += list(chunk.index.astype(str))
            samples = chunk.columns.astype(str)
    about = pd.read_csv(phenotype, sep="\t", index_col="sample", compression="gzip").reindex(samples)
    obs = about.rename(columns=lambda name: name.lstrip("_"))
    return AnnData(sparse.vstack(pieces).T.tocsr(), obs=obs, var=pd.DataFrame(index=genes))
