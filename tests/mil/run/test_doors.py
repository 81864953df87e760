"""Files of a run that came from elsewhere: a value of another kind is one line, not a traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from witness import Trained

from mil.report.options import ReportOptions
from mil.report.report import report
from wsi.errors import RequestError


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("metrics.json", ("centers", 0, "center"), {"a": 1}),
        ("metrics.json", ("folds", 0, "fold"), "x"),
        ("metrics.json", ("models", "constant"), {}),
        ("record.json", ("hardware", "memory_gib"), {}),
        ("record.json", ("hardware", "memory_gib"), "x"),
        ("record.json", ("hardware", "cores"), [1]),
        ("record.json", ("sessions", 0, "seconds"), None),
    ],
)
def test_a_value_of_another_kind_is_told(trained: Trained, tmp_path: Path, name: str, keys: Any, value: Any) -> None:
    run = Path(shutil.copytree(trained.out, tmp_path / "run"))
    content = json.loads((run / name).read_text())
    within = content
    for key in keys[:-1]:
        within = within[key]
    within[keys[-1]] = value
    (run / name).write_text(json.dumps(content))
    with pytest.raises(RequestError, match=f"{name} is damaged") as caught:
        report(ReportOptions(run=run))
    assert "\n" not in str(caught.value)
