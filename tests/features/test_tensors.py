"""Files of tensors that come from elsewhere."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from features.tensors import MOST_HEADER, read_tensors, read_texts
from wsi.errors import RequestError


def test_tensors_and_texts_come_back(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors", {"made": "here"})
    tensors, texts = read_tensors(tmp_path / "w.safetensors", RequestError)
    assert tensors["a"].tolist() == [0, 1, 2]
    assert texts == read_texts(tmp_path / "w.safetensors", RequestError) == {"made": "here"}


@pytest.mark.parametrize("read", [read_tensors, read_texts])
def test_a_list_without_end_is_not_read(tmp_path: Path, read: Callable[..., Any]) -> None:
    """A million empty tensors are valid, and take minutes and gigabytes to list."""
    one = json.dumps({"": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})[1:-1].encode()
    header = b"{" + b",".join(b'"%d' % i + one[1:] for i in range(MOST_HEADER // len(one) + 1)) + b"}"
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="at most"):
        read(tmp_path / "w.safetensors", RequestError)
