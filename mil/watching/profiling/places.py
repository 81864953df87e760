"""What a thread was doing, told by the functions that it stood in: reading, decoding, encoding, waiting ..."""

import re
from functools import cache

Frame = tuple[str, str]
"""Function, and its file with the line: ``read (wsi/readers/mosaic.py:94)`` in two."""
WAITING, STARTING, OTHER = "waiting", "starting", "other"
_WAITS = re.compile(
    r"(threading|queue|selectors|socket|socketserver|subprocess|popen_\w+|connection|asyncio/\w+|concurrent/futures/\w+"
    r"|multiprocessing/\w+|tornado/\w+)\.py"
)
_WAITING_LOOPS = {
    ("_read_loop", "stream.py"),
    ("_encode_loop", "stream.py"),
    ("__iter__", "stream.py"),
    ("_fill", "engine.py"),
    ("next", "workers.py"),
    ("_work", "workers.py"),
}
"""Functions of ours that wait themselves when they are the innermost."""
_RULES: tuple[tuple[str, str, str], ...] = (
    # step, file, function; the innermost frame that fits decides
    ("reading", r"wsi/readers/mosaic\.py", r"_bytes_at"),
    ("decoding", r"wsi/readers/(tiff/decode|tiles|dicom/reader)\.py|wsi/pixels/jpeg\w*\.py|wsi/zarr_jpeg\.py", r".*"),
    ("decoding", r"wsi/store/codecs\.py", r"decode\w*|_decode\w*"),
    ("compressing", r"wsi/store/codecs\.py", r".*"),
    (
        "reading",
        r"wsi/(readers|annotations)/|wsi/slide\.py|wsi/cohort/|openslide/|tifffile/|fsspec/|s3fs/|pydicom/",
        r".*",
    ),
    (
        "reading",
        r"wsi/store/(folder|storage|remote|tile_store)\.py|features/bags/(hdf5|loaded|content)\.py|h5py/",
        r".*",
    ),
    ("reading", r"wsi/store/shards\.py", r"parse_index|shard_index|view|chunk|open_shard"),
    ("scaling", r"wsi/pixels/resample\.py|wsi/tiling/(scaling|strips)\.py", r".*"),
    ("finding tissue", r"wsi/tissue/|wsi/tiling/(overview|masking)\.py", r".*"),
    ("scoring", r"wsi/scores/", r".*"),
    (
        "writing",
        r"wsi/files/|wsi/store/|features/bags/bag\.py|features/extraction/(parts|collect)\.py|safetensors/",
        r".*",
    ),
    ("computing gradients", r"torch/autograd/|torch/optim/|torch/amp/", r".*"),
    ("encoding", r"features/encoders/|features/(stain|views)\.py|features/extraction/stream\.py", r".*"),
    ("reading", r"mil/data/|mil/training/training_data\.py", r".*"),
    ("computing", r"mil/(heads|models|ragged|training|heatmaps|evaluation)/|sklearn/|scipy/", r".*"),
    ("drawing", r"mil/report/|matplotlib/|mil/viewing/|wsi/viewing/", r".*"),
    ("planning", r"wsi/tiling/|features/extraction/|distributed/|dask/", r".*"),
    (STARTING, r"importlib|<frozen", r".*"),
)
_ADVICE = {
    "reading": "the disk or the network is slow: a faster or local one, or more --workers, which wait at the same time",
    "decoding": "pixels are unpacked by the CPU: more --workers or cores; --downscale dct where JPEG is made smaller",
    "compressing": "stores are compressed by the CPU: more --workers; --codec jpeg is quicker than lossless zstd",
    "scaling": "pixels are averaged by the CPU: more --workers; a --mpp that the slide has itself needs none",
    "writing": "the disk is slow in writing: a faster one for --out, for a local one and a copy afterwards",
    "encoding": "the encoder is what takes the time: a GPU, --precision bf16, a larger --batch-size, or more --nproc",
    "computing gradients": "the model is what takes the time: a GPU, or --workers to train several side by side",
    "computing": "the model is what takes the time: a GPU, or --workers to train several side by side",
    WAITING: "threads wait for each other: too few tasks for them, or one step holds the others up",
    STARTING: "loading the programs takes the time: let it run longer (--seconds)",
}


@cache
def step_of(stack: tuple[Frame, ...]) -> str:
    """Return what a thread does that stands in these frames, outermost first."""
    if not stack:
        return OTHER
    function, place = stack[-1]
    file = place.rpartition(":")[0] or place
    if _WAITS.search(file) or (_bare(function), file.rpartition("/")[2]) in _WAITING_LOOPS:
        return WAITING
    for function, place in reversed(stack):
        file = place.rpartition(":")[0] or place
        if "importlib" in file:
            return STARTING
        for step, files, functions in _RULES:
            if re.search(files, file) and re.fullmatch(functions, _bare(function)):
                return step
    return OTHER


def _bare(function: str) -> str:
    return function.rpartition(".")[2]


def advice_for(step: str) -> str:
    """Return what to do where most of the time goes into that step; nothing where there is nothing to say."""
    return _ADVICE.get(step, "")
