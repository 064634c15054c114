"""Files from the internet: kept in a folder, checked, and downloaded only as far as they are not there yet."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

CHUNK = 1 << 16  # bytes that are written at once, and the most that an interrupt loses


def download(url: str, folder: str | Path | None = None, sha256: str | None = None) -> Path:
    """The file of an address, in a folder (None: the user's cache); a file that is there already is checked and kept.

    sha256  the checksum that the file must have. Without one, the checksum of the first download is written beside the
            file, and later calls compare with it

    A download that was interrupted goes on where it ended. Raises OSError if the address cannot be reached, and
    ValueError if the file has another checksum.
    """
    import pooch

    place = Path(pooch.os_cache("pyroscvi") if folder is None else folder)
    place.mkdir(parents=True, exist_ok=True)
    name = url.rsplit("/", 1)[-1]
    checksum_file = place / f"{name}.sha256"
    known = sha256 or (checksum_file.read_text("utf-8").strip() if checksum_file.exists() else None)
    resuming: Any = Resuming(place / f"{name}.part")
    file = Path(pooch.retrieve(url, known and f"sha256:{known}", name, place, downloader=resuming))
    if known is None:
        checksum_file.write_text(pooch.file_hash(str(file)) + "\n", "utf-8")
    return file


@dataclass(frozen=True)
class Resuming:
    """A downloader for pooch that keeps what it has in the file ``part``, and asks for the rest only."""

    part: Path

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        console = Console(stderr=True)
        try:
            with requests.get(url, stream=True, timeout=60, headers=headers) as answer:
                if answer.status_code != requests.codes.requested_range_not_satisfiable:  # the part is the whole file
                    answer.raise_for_status()
                    goes_on = answer.status_code == requests.codes.partial_content
                    length = int(answer.headers.get("Content-Length", 0)) + have * goes_on
                    with (
                        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
                        self.part.open("ab" if goes_on else "wb") as file,
                    ):
                        task = bar.add_task(f"downloading {self.part.stem}", total=length, completed=have * goes_on)
                        for chunk in answer.iter_content(CHUNK):
                            file.write(chunk)
                            bar.advance(task, len(chunk))
        except requests.RequestException as error:
            resumed = ": the next call goes on from what is there" if self.part.exists() else ""
            raise OSError(f"{url} could not be downloaded ({type(error).__name__}){resumed}") from error
        os.replace(self.part, output_file)
