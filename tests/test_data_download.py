"""Downloads, from a server on this machine: cached, resumed, checked."""

import gzip
import hashlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from pyroscvi.data.download import CHUNK, download
from pyroscvi.data.tcga import tcga


@pytest.fixture
def server():
    """A server of the files in ``.files``: it knows ranges, notes what was asked, and breaks off after ``.breaks``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            content = running.files[self.path][start:]
            running.asked.append((self.path, start))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: running.breaks])

        def log_message(self, *_):
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    running.files, running.asked, running.breaks = {}, [], None
    running.url = f"http://127.0.0.1:{running.server_port}"
    thread = Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_download_goes_on_where_it_was_broken_off(server, tmp_path):
    content = server.files["/a.bin"] = bytes(range(256)) * 600
    server.breaks = 100_000
    with pytest.raises(OSError, match=r"could not be downloaded .*: the next call goes on from what is there"):
        download(f"{server.url}/a.bin", tmp_path)
    server.breaks = None
    assert download(f"{server.url}/a.bin", tmp_path).read_bytes() == content
    assert [start for _, start in server.asked] == [0, CHUNK]
    download(f"{server.url}/a.bin", tmp_path)
    assert len(server.asked) == 2  # it is there


def test_a_file_that_has_changed_is_downloaded_anew(server, tmp_path):
    server.files["/a.bin"] = b"counts"
    file = download(f"{server.url}/a.bin", tmp_path)
    assert (tmp_path / "a.bin.sha256").read_text().strip() == hashlib.sha256(b"counts").hexdigest()
    file.write_bytes(b"damaged")
    assert download(f"{server.url}/a.bin", tmp_path).read_bytes() == b"counts"
    with pytest.raises(ValueError, match="hash"):
        download(f"{server.url}/a.bin", tmp_path / "other", sha256="0" * 64)


def test_tcga_is_counts_and_cancers(server, tmp_path):
    counts = np.array([[0, 3], [1000, 7], [2, 0]])  # genes x samples
    table = pd.DataFrame(np.log2(counts + 1).round(4), ["ENSG1.1", "ENSG2.5", "ENSG3.2"], ["TCGA-A-01", "TCGA-B-11"])
    about = pd.DataFrame(
        {"sample_type": ["Solid Tissue Normal", "Primary Tumor"], "_primary_disease": ["lung", "breast"]},
        index=["TCGA-B-11", "TCGA-A-01"],
    )
    server.files["/counts.gz"] = gzip.compress(table.rename_axis("sample").to_csv(sep="\t").encode())
    server.files["/about.tsv.gz"] = gzip.compress(about.rename_axis("sample").to_csv(sep="\t").encode())
    urls = {"counts": f"{server.url}/counts.gz", "phenotype": f"{server.url}/about.tsv.gz"}
    for _ in range(2):
        adata = tcga(tmp_path, **urls)
        np.testing.assert_array_equal(adata.X.toarray(), counts.T)
        assert list(adata.obs["primary_disease"]) == ["breast", "lung"]
        assert list(adata.var_names) == list(table.index)
    assert len(server.asked) == 2
