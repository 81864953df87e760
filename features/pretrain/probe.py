"""The online probe: what the features of slides tell of held-out patients, epoch by epoch; nothing is chosen by it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from features.learning.batches import Draw, generator
from features.learning.measure import auc
from features.learning.ranks import Setting
from features.learning.slides import Slide, TileReader
from features.pretrain.cohort import Probe
from features.pretrain.encoding import features_of
from features.pretrain.options import PretrainOptions
from features.pretrain.sources import SAMPLED
from features.pretrain.views import View, plain
from wsi.arrays import Floats, Ints

TILES = 16
"""Of each slide, at most; always the same ones."""
NEIGHBOURS = 5


class OnlineProbe:
    """Tells held-out patients by the mean features of their slides."""

    def __init__(self, options: PretrainOptions, probe: Probe, view: View, setting: Setting) -> None:
        self._slides: tuple[Slide, ...] = probe.taught + probe.told
        self._n_taught, self._n_classes = len(probe.taught), len(probe.classes)
        self._options, self._view, self._setting = options, view, setting
        self._draw = _draw(self._slides, options.seed)
        self._reader = TileReader(self._slides, probe.tile_px)

    def measured(self, backbone: nn.Module) -> dict[str, float]:
        """Return the AUC of held-out patients: of the second class, or the mean of one class against the rest."""
        features = features_of(backbone, self._images, len(self._draw), self._setting)
        counts = np.bincount(self._draw.slides)
        means = np.stack([np.bincount(self._draw.slides, column) for column in features.T], axis=1) / counts[:, None]
        labels = np.array([slide.label for slide in self._slides])
        probs = self._told(means[: self._n_taught], labels[: self._n_taught], means[self._n_taught :])
        patients = np.unique([slide.patient_id for slide in self._slides[self._n_taught :]], return_inverse=True)[1]
        sums = np.stack([np.bincount(patients, column) for column in probs.T], axis=1)
        label_of = np.zeros(len(sums), np.int64)
        label_of[patients] = labels[self._n_taught :]
        return {"probe_auc": auc(sums / np.bincount(patients)[:, None], label_of)}

    def _told(self, taught: Floats, labels: Ints, told: Floats) -> Floats:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

        linear = self._options.probe_by == "linear"
        model = (
            make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
            if linear
            else make_pipeline(Normalizer(), KNeighborsClassifier(min(NEIGHBOURS, len(labels))))
        )
        found = model.fit(taught, labels)
        probs = np.zeros((len(told), self._n_classes))
        probs[:, found.classes_] = found.predict_proba(told)
        return probs

    def _images(self, rows: Ints) -> Tensor:
        pixels = torch.from_numpy(self._reader.pixels(self._draw, rows)).to(self._setting.device)
        return plain(pixels.float().div_(255), self._view)


def _draw(slides: Sequence[Slide], seed: int) -> Draw:
    """Return up to so many tiles of each slide, one slide after the other."""
    own = [
        np.sort(generator(seed, SAMPLED, s.image_id).choice(s.tiles, min(TILES, len(s.tiles)), replace=False))
        for s in slides
    ]
    tiles = np.concatenate(own)
    return Draw(np.repeat(np.arange(len(slides)), [len(part) for part in own]), tiles, np.ones(len(tiles)))
