"""`gigamil config run`: a cohort file with every table and key, at their defaults, and what they mean."""

from collections.abc import Collection, Iterator

from cli.from_dataclass import texts, title_of
from cli.verbs.config import line_of
from mil.pipeline.cohort.tables import AFTER, EXPERIMENTS, GRID, LEFT_OUT, VERBS, AfterTable, Cohort, PredictTable
from mil.rehearsal.options import Rehearsed
from mil.slurm.settings import SlurmSettings
from wsi.options import decided, specs

_HEAD = """# What is to become of a cohort: gigamil run THIS_FILE. Relative paths start at its folder."""
_EXPERIMENTS = f"""# Experiments: a run each. Beside the keys here, any option of [train], over what stands there.
#
# [[{EXPERIMENTS}]]
# name = "small"             # otherwise made of what tells it from others
# encoder = "texture"        # one of [extract]; several with fusion = "concat" or "late": a list
# priority = 1               # larger ones first; once its row is in experiments.csv, what stands there counts
# head = "clam_sb"
# hidden = 64

# Every one of these with every other: lists, of encoders and of any option of [train]
#
# [{GRID}]
# head = ["gated_abmil", "dsmil"]
# lr = [1e-3, 3e-4]"""
_MEANINGS = {
    "tile": "Of slides, tile stores.",
    "extract": "Of tile stores, bags of features. encoder may be a list: each gets a folder.",
    "train": "Of bags, runs: what holds for all experiments. Without experiments and grid: one of each encoder.",
    "predict": "Of a run and new slides, a table of predictions.",
    "heatmap": "Of a run, heat maps.",
    "page": "Of a run, pages that open by a double click.",
    "report": "Of a run, its report once more: with the pages linked, as PDF, with annotations.",
}
_CLUSTER = """\
# What the jobs of `gigamil submit` ask for. [slurm.tile], [slurm.driver], [slurm.extract], [slurm.train],
# [slurm.after] say something else for one stage, with the same keys."""
_TRIAL = "# What `gigamil rehearse` tries, and what it tolerates."
_BESIDE: dict[str, tuple[type, ...]] = {"predict": (PredictTable, AfterTable)}


def cohort_text() -> str:
    """Return a cohort file; what has no default, and what is only made where its table stands there, is a comment."""
    parts = [_HEAD, "\n".join(_lines(Cohort, ()))]
    parts += ["\n".join(_table(verb)) for verb in ("tile", "extract", "train")]
    parts.append(_EXPERIMENTS)
    parts += [_as_comment("\n".join(_table(verb, _BESIDE.get(verb, (AfterTable,))))) for verb in AFTER]
    for title, meaning, kind in (("slurm", _CLUSTER, SlurmSettings), ("rehearse", _TRIAL, Rehearsed)):
        parts.append(_as_comment("\n".join([meaning, f"[{title}]", *_lines(kind, ())])))
    return "\n\n".join(parts) + "\n"


def _as_comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


def _table(verb: str, beside: Collection[type] = ()) -> list[str]:
    own = [line for kind in beside for line in _lines(kind, ())]
    return [f"# {_MEANINGS[verb]}", f"[{verb}]", *own, *_lines(VERBS[verb], LEFT_OUT[verb])]


def _lines(options: type, without: Collection[str]) -> Iterator[str]:
    title = ""
    for spec in specs(options):
        if spec.field in without:
            continue
        if title_of(spec, options) != title:
            title = title_of(spec, options)
            yield from ["", f"# -- {title}"] if title != "Options" else [""]
        if meaning := texts(spec.group)[spec.field]:
            yield f"# {meaning}"
        yield line_of(spec, decided(options))
