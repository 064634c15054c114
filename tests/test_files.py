"""Files are written whole, are recognised as ours, and say when they were altered."""

import json
import math

import numpy as np
import pytest

from pyroscvi.fitting.files import DamagedFile, altered, read_json, remove_partial, write_checksums, write_json

CONTENT = {"name": "Müller", "values": [0.1, 1e-300, -3, None, True], "nested": {"a": [], "b": {"c": 2**70}}}


def test_json_is_read_back_unchanged_and_is_standard_json(tmp_path):
    file = write_json(tmp_path / "new" / "a.json", CONTENT)
    assert read_json(file) == CONTENT
    assert json.loads(file.read_text())["name"] == "Müller"
    assert math.isnan(read_json(write_json(file, {"x": math.nan}))["x"])
    assert [entry.name for entry in file.parent.iterdir()] == ["a.json"]


def test_every_altered_byte_of_json_is_noticed(tmp_path):
    file = write_json(tmp_path / "a.json", CONTENT)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] = (changed[place] + int(rng.integers(1, 256))) % 256
        for text in (bytes(changed), whole[:place]):
            file.write_bytes(text)
            with pytest.raises(DamagedFile, match=r"a\.json is not as pyroscvi wrote it"):
                read_json(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model": "another program"}', '{"checksum": "0"}', "[" * 10**5])
def test_json_of_another_program_is_not_ours(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_checksums_tell_which_file_of_a_folder_was_altered(tmp_path):
    for name in ("a.csv", "b.png", "c.txt"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path, ["a.csv", "b.png", "c.txt"])
    assert altered(tmp_path) == []
    (tmp_path / "a.csv").write_text("a.cs")
    (tmp_path / "c.txt").unlink()
    assert altered(tmp_path) == [tmp_path / "a.csv", tmp_path / "c.txt"]
    (tmp_path / "checksums.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"checksums\.json"):
        altered(tmp_path)


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".fit.partial.safetensors").write_bytes(b"half")
    (tmp_path / ".hidden").write_text("of somebody else")
    remove_partial(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".hidden"]
