"""Would a default that learned from formulas beat ``texture``? Trained for some minutes, judged with frozen features.

Run: ``python tests/benchmarks/bench_learned.py --minutes 5 [--device cuda] [--formula stained --formula exfractaldb]
[--weights FILE] [--cohort DEMO] [--slides FOLDER] [--out bench-learned.json]``. DEMO: a folder of `gigamil demo`
(stores/ and cohort/train.csv). Each family trains the same small network from the same first weights for so many
minutes of wall time: a trial epoch tells how many pictures that is. Then the same questions go to those that learned,
to random weights of that network, and to ``texture``. On a GPU ten minutes for each family are planned: ``--minutes 10
--device cuda --classes 1000``.

* *cohort*: log loss and AUC of `gigamil train`, out of fold, on the sample cohort.
* *IHC*, *retina*: AUC of a logistic regression on parts of skimage's pictures (`picture_tasks`), each quarter of them
  told by the others.
* *slides*: of a part of a real slide the share of its five nearest that are of that slide; and the same without colour.

A network sees every picture at the size at which it was trained; ``texture`` sees it as it is.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import timm
import torch
from picture_tasks import Encode, Tiles, grey, immunohistochemistry, probed, retina, retrieved, slide_parts
from rich.console import Console
from rich.table import Table
from torch import Tensor

from features.encoders.texture_encoder import TextureEncoder
from features.encoders.weights import load_weights
from features.formulas import FORMULAS
from features.pretrain.options import PretrainOptions
from features.pretrain.run import pretrain
from mil.train import train
from mil.training.options import TrainOptions
from wsi.machine.memory import keep_freed_memory
from wsi.store.tile_store import find_stores

NETWORK = "regnetx_002"
"""9.3 MB of weights."""
SIZE_PX = 96
INSTANCES = 10_000
BATCH, EPOCHS = 64, 6
TRIAL_IMAGES = 512
TOGETHER = 64
SEED = 0


@dataclass(frozen=True)
class Row:
    """What one encoder's features tell."""

    encoder: str
    images: int = 0
    """That it was trained on."""
    loss: float | None = None
    """Of telling the classes, in the last epoch; chance is the logarithm of their number."""
    cohort_log_loss: float | None = None
    cohort_auc: float | None = None
    ihc_auc: float | None = None
    retina_auc: float | None = None
    slides: float | None = None
    slides_grey: float | None = None


class Network:
    """A network of timm as a frozen encoder at one input size."""

    def __init__(self, weights: Path | None, size_px: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self._model = timm.create_model(NETWORK, num_classes=0)
        if weights is not None:
            load_weights(self._model, weights)
        self._model.eval().to(device)
        self._size_px, self._device = size_px, device
        config = self._model.pretrained_cfg
        self._mean, self._std = (torch.tensor(config[key]).view(1, 3, 1, 1).to(device) for key in ("mean", "std"))

    def __call__(self, tiles: Tiles) -> np.ndarray:
        """Encode uint8 (N, T, T, 3)."""
        return _in_parts(tiles, self._encoded)

    def _encoded(self, tiles_NCHW: Tensor) -> Tensor:
        small = torch.nn.functional.interpolate(
            tiles_NCHW.to(self._device), (self._size_px,) * 2, mode="bilinear", antialias=True
        )
        return self._model((small - self._mean) / self._std)


def _in_parts(tiles: Tiles, encode: Callable[[Tensor], Tensor]) -> np.ndarray:
    with torch.inference_mode():
        parts = [
            encode(torch.from_numpy(some).permute(0, 3, 1, 2).float() / 255).cpu().numpy()
            for some in np.array_split(tiles, max(1, len(tiles) // TOGETHER))
        ]
    return np.concatenate(parts)


def trained(family: str, classes: int, minutes: float, device: str, folder: Path) -> tuple[Path, int, float]:
    """Train for some minutes; return the weights, the number of pictures, and the loss of the last epoch."""
    options = PretrainOptions(
        source=(Path("formula"),), formula=family, out=folder / f"{family}-trial.safetensors", network=NETWORK,
        size=SIZE_PX, classes=classes, instances=INSTANCES, batch_size=BATCH, epochs=1, images_per_epoch=BATCH,
        lr=4e-3, ema=0.99, device=device, seed=SEED, smallest_crop=0.6,
    )  # fmt: skip
    pretrain(options)  # what is loaded and built once does not count
    began = time.perf_counter()
    pretrain(replace(options, images_per_epoch=TRIAL_IMAGES, overwrite=True))
    rate = TRIAL_IMAGES / (time.perf_counter() - began)
    images = max(BATCH, int(rate * minutes * 60 / EPOCHS))
    out = folder / f"{family}.safetensors"
    pretrain(replace(options, out=out, epochs=EPOCHS, images_per_epoch=images))
    last = json.loads(out.with_suffix(".json").read_text())["last_epoch"]
    return out, images * EPOCHS, float(last["train_loss"])


def judged(row: Row, encode: Encode, cohort: Path | None, slides: Path | None, scratch: Path) -> Row:
    """Ask all questions that there is material for."""
    row = replace(row, ihc_auc=probed(immunohistochemistry(), encode), retina_auc=probed(retina(), encode))
    if slides is not None:
        tiles, whose = slide_parts(slides)
        row = replace(row, slides=retrieved(encode(tiles), whose), slides_grey=retrieved(encode(grey(tiles)), whose))
    if cohort is not None:
        loss, auc = out_of_fold(encode, cohort, scratch / row.encoder)
        row = replace(row, cohort_log_loss=loss, cohort_auc=auc)
    return row


def out_of_fold(encode: Encode, cohort: Path, folder: Path) -> tuple[float, float]:
    """Return log loss and AUC of patients, out of fold."""
    bags = folder / "bags"
    bags.mkdir(parents=True)
    for store in find_stores([cohort / "stores"]):
        tiles = np.asarray(store.read_tiles(range(store.n_tiles))).transpose(0, 2, 3, 1)
        with h5py.File(bags / f"{store.image_id}.h5", "w") as file:
            file["features"] = encode(np.ascontiguousarray(tiles)).astype(np.float32)
            file["coords"] = store.coords_l0_yx()[:, ::-1].astype(np.int64)
    options = TrainOptions(
        bags=(bags,), manifest=cohort / "cohort" / "train.csv", out=folder / "run", baselines=(), device="cpu"
    )
    train(options)
    found = json.loads((folder / "run" / "metrics.json").read_text())["models"]["gated_abmil"]
    return float(found["weighted_log_loss"]["value"]), float(found["auc"]["value"])


def _table(rows: Sequence[Row]) -> Table:
    table = Table("encoder", "pictures", "loss", "cohort log loss", "cohort AUC", "IHC", "retina", "slides", "grey")
    for row in rows:
        cells = asdict(row).values()
        table.add_row(*("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in cells))
    return table


def main() -> None:
    """Train, judge, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each family; 0: none is trained")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--formula", action="append", choices=list(FORMULAS))
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--weights", type=Path, action="append", help="of an earlier run, which are judged, too")
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--slides", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-learned.json"))
    parser.add_argument("--keep", type=Path, help="where the weights stay")
    asked = parser.parse_args()
    keep_freed_memory()
    scratch = Path(tempfile.mkdtemp())
    folder = asked.keep or scratch
    folder.mkdir(parents=True, exist_ok=True)
    device, console = torch.device(asked.device), Console(width=140)
    texture = TextureEncoder().to(device)
    try:
        encoders: list[tuple[Row, Encode]] = []
        for family in (asked.formula or ["stained", "deadleaves-he", "exfractaldb"]) if asked.minutes else []:
            weights, images, loss = trained(family, asked.classes, asked.minutes, asked.device, folder)
            encoders.append((Row(family, images, loss), Network(weights, SIZE_PX, device)))
        for file in asked.weights or []:
            told = json.loads(file.with_suffix(".json").read_text())
            images = told["recipe"]["images_per_epoch"] * told["recipe"]["epochs"]
            own = Row(file.stem, images, float(told["last_epoch"]["train_loss"]))
            encoders.append((own, Network(file, SIZE_PX, device)))
        encoders.append((Row("random"), Network(None, SIZE_PX, device)))
        encoders.append((Row("texture"), lambda tiles: _in_parts(tiles, lambda part: texture.encode(part.to(device)))))
        rows: list[Row] = []
        facts = {"minutes": asked.minutes, "classes": asked.classes, "device": asked.device}
        for row, encode in encoders:
            rows.append(judged(row, encode, asked.cohort, asked.slides, scratch))
            asked.out.write_text(json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
            console.print(_table(rows))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
