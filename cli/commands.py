"""The verbs: what each is told by, what it runs, what it says at its end. They are imported when they are used."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of `gigamil`; ``module:name`` tells where its parts stand."""

    name: str
    group: str
    summary: str
    options: str
    """The dataclass of its options."""
    run: str
    """From options and progress to a summary; of a verb that shows what it finds, from options and json to a code."""
    ending: str = ""
    """From options and summary to what is told at the end: JSON values, and ``lines`` for a person."""
    settings: str = ""
    """From the file of `--settings` to values that stand under those of the command line."""
    shows: bool = False
    more: str = ""
    """Further text of the help."""
    passes_on: bool = False
    """What stands after its first argument is another verb's: options of its own stand before it."""

    def load(self, part: str) -> Any:
        """Return the options, the function or the ending."""
        module, _, name = getattr(self, part).partition(":")
        return getattr(import_module(module), name)


START, COHORTS, SLIDES = "To begin", "Whole cohorts", "Slides"
FEATURES, MODELS, RUNS = "Features", "Models", "Finished runs"
_ALL = (
    Verb(
        "demo", START, "Run everything on a sample cohort: slides, tiles, features, training, predictions, heat maps.",
        "cli.verbs.demo:DemoOptions", "cli.verbs.demo:demo", shows=True, more="A second run skips what is finished.",
    ),
    Verb(
        "sample", START, "Write a small synthetic cohort in the STRIP AI form, for trying everything out.",
        "sample_data.options:SampleOptions", "sample_data.make:make_cohort",
    ),
    Verb(
        "config", START, "Print TOML with every option at its default and what it means, for --config.",
        "cli.verbs.config:ConfigOptions", "cli.verbs.config:config", shows=True,
        more="`gigamil config run`: a cohort file.",
    ),
    Verb(
        "run", COHORTS, "Do all of a cohort that one file describes: tile, extract, train its experiments, report.",
        "mil.pipeline.options:RunOptions", "cli.verbs.run:run", shows=True,
        more="What is finished is skipped. Several processes and nodes may run one file at once. Exit code 75 (of one "
        "stage): another process holds work that this one would need; give the command again.",
    ),
    Verb(
        "submit", COHORTS, "Put what is left to do of a cohort into Slurm's queue, each stage after the one before it.",
        "mil.slurm.options:SubmitOptions", "cli.verbs.submit:submit", shows=True,
        more="What is done or in the queue is left out. docs/slurm.md says what the file's [slurm] can hold.",
    ),
    Verb(
        "profile", START, "Run some seconds of a verb and say where the time goes: reading, decoding, encoding, ...",
        "mil.watching.profiling.options:ProfileOptions", "cli.verbs.profile:profile", shows=True, passes_on=True,
        more="Its own options stand before the verb. The verb's outputs go to a temporary folder, and are removed.",
    ),
    Verb(
        "doctor", START, "Try installation, GPU, disk, locks, ports, clock: what is wrong, and what to do.",
        "mil.watching.doctor.options:DoctorOptions", "mil.watching.doctor.command:doctor", shows=True,
        more="Exit code 1 where something is wrong. Nothing leaves this machine without --online.",
    ),
    Verb(
        "status", COHORTS, "Say how far a cohort is: done, running, waiting, stuck, failed and why; --follow.",
        "mil.watching.options:StatusOptions", "mil.watching.command:status", shows=True,
        more="Exit code 0: all is done; 1: something failed and nobody works any more; 75: not everything is done yet.",
    ),
    Verb(
        "plan", COHORTS, "Say what a cohort will take, before anything runs: time, memory, disk, price; if it fits.",
        "mil.planning.options:PlanOptions", "cli.verbs.plan:plan", shows=True,
        more="Headers tell sizes; parts of some slides are tiled, an encoder and heads run for some seconds. "
        "What is done already is not counted.",
    ),
    Verb(
        "info", SLIDES, "Say what is in slides, which um/px is believed and why, and what tiling would do.",
        "wsi.qc.options:InfoOptions", "cli.verbs.info:info", shows=True,
    ),
    Verb(
        "tile", SLIDES, "Cut slides into tile stores (OME-Zarr), one per slide.",
        "wsi.tiling.options:TileOptions", "wsi.tiling.tiler:tile",
    ),
    Verb(
        "qc", SLIDES, "Write a contact sheet of a cohort: overview, tissue, quality, warnings; the odd slides first.",
        "wsi.qc.options:QcOptions", "wsi.qc.sheet:qc",
    ),
    Verb(
        "verify", SLIDES, "Check that stores or bags are whole, to every chunk and row; --phi: a bundle names nobody.",
        "cli.verbs.verify:VerifyItemsOptions", "cli.verbs.verify:verify_items",
    ),
    Verb(
        "export", SLIDES, "Write a tile store, bags, models or scores of a run in a form that other programs read.",
        "cli.verbs.export:ExportOptions", "cli.verbs.export:export",
        more="Label and macro images never leave with a store.",
    ),
    Verb(
        "share", SLIDES, "Write a de-identified bundle of stores, bags, or what a run says of them, under random ids.",
        "mil.sharing.options:ShareOptions", "mil.sharing.share:share",
        more="`gigamil verify --phi` searches a bundle for what should not be in it; docs/sharing.md says what stays.",
    ),
    Verb(
        "push", RUNS, "Put a run, bags or weights on the Hugging Face hub: with a card, where licences allow it.",
        "mil.hub.options:PushOptions", "mil.hub.push:push",
        more="Nothing goes up that tells a patient's or slide's id. A push that broke off goes on: give it again.",
    ),
    Verb(
        "pull", RUNS, "Fetch what was pushed to the Hugging Face hub: every file checked, whole or not at all.",
        "mil.hub.options:PullOptions", "mil.hub.pull:pull",
        more="HF_HOME, HF_HUB_OFFLINE and HF_TOKEN count as they do for the hub's own programs.",
    ),
    Verb(
        "extract", FEATURES, "Encode every tile of the stores; write one bag of features per slide.",
        "features.extraction.options:ExtractOptions", "features.extraction.extract:extract", "cli.endings:extract",
        more="Finished bags are skipped. A run that was stopped goes on where it was.",
    ),
    Verb(
        "pack", FEATURES, "Put many bags into one file, for disks that count files; read like a folder; --unpack.",
        "features.bags.options:PackOptions", "features.bags.pack:pack_bags",
        more="`gigamil train`, `predict`, `verify` and all that take bags take the file in their folder's place.",
    ),
    Verb(
        "encoders", FEATURES, "List the encoders that `gigamil extract --encoder` knows.",
        "cli.verbs.encoders:EncodersOptions", "cli.verbs.encoders:encoders", shows=True,
    ),
    Verb(
        "pretrain", FEATURES, "Train a network without labels: on formula images, or on one's own tiles by themselves.",
        "features.pretrain.options:PretrainOptions", "features.pretrain.run:pretrain", "cli.endings:pretrain",
        more="A run that was stopped goes on where it was. `gigamil extract --weights` takes the result.",
    ),
    Verb(
        "embed", FEATURES, "Make one vector of each slide's bag: mean, a published slide encoder, a run's embedding.",
        "mil.embedding.options:EmbedOptions", "mil.embedding.embed:embed", "cli.endings:embed",
        more="The result are bags of one row: `gigamil train`, `similar`, `compare` and `verify` take them.",
    ),
    Verb(
        "finetune", FEATURES, "Fine-tune an encoder on tiles with their slide's label; a fold of patients is held out.",
        "features.finetune.options:FinetuneOptions", "features.finetune.run:finetune", "cli.endings:finetune",
        more="A run that was stopped goes on where it was. `gigamil extract --weights` takes the result.",
    ),
    Verb(
        "train", MODELS, "Train an attention model and its baselines by cross-validation; write a run with a report.",
        "mil.training.options:TrainOptions", "mil.train:train", "cli.endings:train", "mil.search:read_settings",
    ),
    Verb(
        "tune", MODELS, "Search for good settings; report the score of search and training by nested cross-validation.",
        "mil.training.tune_options:TuneOptions", "mil.tune:tune", "cli.endings:tune",
    ),
    Verb(
        "predict", RUNS, "Predict every patient: one row each, rows sum to 1; failures at equal probabilities, named.",
        "mil.inference.options:PredictOptions", "mil.inference.predict:predict",
    ),
    Verb(
        "evaluate", RUNS, "Judge a second, labelled cohort by a finished run: the same report, nothing fitted anew.",
        "mil.external.options:EvaluateOptions", "mil.external.evaluate:evaluate", "cli.endings:evaluate",
        more="Patients whom the run was trained on are refused, or with --overlap leave-out left out and named.",
    ),
    Verb(
        "heatmap", RUNS, "Draw where the model looked: attention over the slide, the tiles it looked at most, a table.",
        "mil.heatmaps.options:HeatmapOptions", "mil.heatmaps.heatmap:heatmap",
        more="Without --image-id or --all: the slides of most interest, up to a dozen: of each class the surest right "
        "one, the surest wrong one and the least sure one, then more of these in turns.",
    ),
    Verb(
        "page", RUNS, "Write a folder that opens by a double click: every slide to zoom into, with what the run says.",
        "mil.viewing.options:PageOptions", "mil.viewing.page:page", "cli.endings:page",
        more="Needs no network, and the folder no gigamil. Without a run: the slides of tile stores alone.",
    ),
    Verb(
        "classify-tiles", FEATURES, "Learn classes of tiles from drawn regions (QuPath's GeoJSON); score every tile.",
        "mil.tiles.options:ClassifyTilesOptions", "mil.tiles.classify:classify_tiles", "cli.endings:classify_tiles",
        more="Each patient learnt from is judged by a model that has not seen the patient.",
    ),
    Verb(
        "report", RUNS, "Write report.html (one self-contained page), checklists and model_card.md of a finished run.",
        "mil.report.options:ReportOptions", "mil.report.report:report",
    ),
    Verb(
        "view", RUNS, "Open stores, slides or a run in a browser: look, draw, judge; blind reading; served from here.",
        "mil.viewing.view_options:ViewOptions", "mil.viewing.view:view", shows=True,
        more="Ctrl-C ends it. Drawings are kept as QuPath's GeoJSON beside each store, judgements in judgements.jsonl.",
    ),
    Verb(
        "compare", RUNS, "Compare runs on the patients they share: intervals, paired differences, DeLong's test, plot.",
        "mil.report.options:CompareOptions", "mil.report.compare:compare", "cli.endings:compare",
    ),
    Verb(
        "similar", RUNS, "Find the known cases most like each slide; name the slides that are like none of them.",
        "mil.inference.options:SimilarOptions", "mil.inference.similar:similar",
    ),
    Verb(
        "worklist", RUNS, "List the patients to label or to check next: the most telling first, not many of a kind.",
        "mil.review.options:WorklistOptions", "mil.review.worklist:worklist",
        more="Of the run's own patients each is judged by models that had not seen the patient.",
    ),
    Verb(
        "rehearse", COHORTS, "Try a share of a cohort file plainly and as in production; say which stage differs.",
        "mil.rehearsal.options:RehearseOptions", "mil.rehearsal.rehearse:rehearse", "cli.endings:rehearse",
        more="Plainly: one process, fp32. `gigamil run` warns where it was not done; --require-rehearsal refuses.",
    ),
)  # fmt: skip
VERBS = {verb.name: verb for verb in _ALL}
