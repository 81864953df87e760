"""model_card.md: what the model is, what it was made from, how good it is, and what it must not be used for.

Sections are those of the Hugging Face Hub's template, which follows Mitchell et al., Model Cards for Model Reporting,
FAT* 2019, arXiv 1810.03993. What the run does not know is marked, never guessed.
"""

from collections.abc import Iterable

from mil.checklists import of_data, of_model
from mil.checklists.known import Answer, Known
from mil.report.cards.metadata import metadata
from mil.report.cards.results import figures, results, sentence
from mil.report.cards.texts import gap, plain
from mil.run.evidence import Evidence
from mil.run.protocol import put_together, split_by
from mil.run.record import read_record
from mil.targets.calibration import LOCATED
from wsi.pages import number, plural
from wsi.recipe import Json


def model_card(evidence: Evidence, spread: Json | None = None) -> str:
    """Return the card as Markdown, after its metadata; ``spread``: what spread.json holds."""
    record = read_record(evidence.run.path)
    known = Known(evidence, record, record.flow, spread=spread or {})
    parts = (_details, _uses, _limits, _start, _training, _evaluation, _environment, _technical, _citation)
    return "\n".join([metadata(evidence), "", *(line for part in parts for line in part(known))]) + "\n"


def _told(answers: Iterable[Answer | None], otherwise: str) -> str:
    found = " ".join(plain(own.text) for own in answers if own is not None)
    return found or gap(otherwise)


def _details(k: Known) -> list[str]:
    evidence, recipe, words = k.evidence, k.recipe, k.evidence.truth.words
    models, made = recipe["folds"] * evidence.run.models_per_fold, recipe["bags"]
    trained = ", ".join(str(own.get("trained", "not told by the bags")) for own in evidence.encoders)
    licences = ", ".join(plain(str(own["licence"])) for own in evidence.encoders if own.get("licence"))
    of_encoder = f"; of the weights of the encoder: {licences}" if licences else ""
    return [
        f"# Model card: {plain(words.joint.join(evidence.classes))}",
        "",
        (
            f"{_title(evidence)} on tile features of whole-slide images; "
            f"{models} models ({recipe['folds']} folds x {evidence.run.models_per_fold} a fold), logits averaged. "
            f"{words.row}"
        ),
        "",
        "## Model Details",
        "",
        "### Model Description",
        "",
        f"- **Developed by:** {gap('who made it')}",
        f"- **Funded by:** {gap('who paid for it')}",
        f"- **Model type:** multiple-instance learning, {_title(evidence)}",
        f"- **License:** {gap('under which terms others may have it')}{of_encoder}",
        f"- **Encoder:** {plain(made['encoder'] or 'not told by the bags')} ({made['dim']} features)",
        f"- **Encoder trained:** {plain(trained)}",
        _calibrated(evidence.calibration),
        f"- **Recipe:** `{evidence.config['recipe_hash']}`",
        "",
        "### Model Sources",
        "",
        f"- **Repository:** {gap('where the run folder can be had')}",
        f"- **Paper:** {gap('where it is described')}",
        "",
    ]


def _calibrated(values: Json) -> str:
    if values["method"] == LOCATED:
        return "- **Risk 0:** the median of the patients on whom the models were validated inside the training"
    return f"- **Temperature:** {number(values['temperature'])} ({plain(values['method'])})"


def _title(evidence: Evidence) -> str:
    title = evidence.title(evidence.head)
    return plain(title) if title == evidence.head else title


def _uses(k: Known) -> list[str]:
    return [
        "## Uses",
        "",
        "### Direct Use",
        "",
        f"Research. {gap('on whom, by whom, and for what')}",
        "",
        "### Out-of-Scope Use",
        "",
        "- Not a medical device; not for diagnosis.",
        f"- {k.evidence.truth.words.caveat}",
        "",
    ]


def _limits(k: Known) -> list[str]:
    return [
        "## Bias, Risks, and Limitations",
        "",
        "- Measured on patients of the centers below. Other scanners, stains and centers can lower the result.",
        "- Attention shows where the model looked, not what is abnormal.",
        *(f"- {plain(line)}" for line in k.evidence.warnings()),
        "",
        "### Recommendations",
        "",
        "Judge it on patients of your own before you rely on it: `gigamil evaluate RUN SLIDES -m TABLE -o OUT`. "
        + gap("whom it treats worse than others, beyond what is told here"),
        "",
    ]


def _start(k: Known) -> list[str]:
    return [
        "## How to Get Started with the Model",
        "",
        "```bash",
        "gigamil predict RUN NEW_SLIDES -o answers.csv",
        "```",
        "",
    ]


def _training(k: Known) -> list[str]:
    evidence, metrics = k.evidence, k.evidence.metrics
    carried = ", ".join(f"{plain(name)} {count}" for name, count in evidence.carried().items())
    there = (
        f"{plural(metrics['patients'], k.unit)}, {plural(metrics['slides'], 'slide')}, "
        f"{plural(len(metrics['centers']), 'center')}. "
        f"{evidence.truth.words.counted}: {carried}. {split_by(k.recipe)} {put_together(k.recipe)}"
    )
    flow = of_data.flow(k)
    gone = "" if flow is None else f"{plain(flow.text)} "
    return [
        "## Training Details",
        "",
        "### Training Data",
        "",
        f"{there} {gone}{gap('where the patients come from, when, and with whose consent')}",
        "",
        "### Training Procedure",
        "",
        "#### Preprocessing",
        "",
        _told((of_data.preparing(k), of_data.selected(k), of_model.standardised(k)), "how tiles were made"),
        "",
        "#### Training Hyperparameters",
        "",
        _told((of_model.training(k), of_model.imbalance(k), of_model.selection(k)), "the settings"),
        "",
        "#### Speeds, Sizes, Times",
        "",
        _told((of_model.compute(k),), "how long it took: the version that made the run kept nothing of it"),
        "",
    ]


def _evaluation(k: Known) -> list[str]:
    evidence = k.evidence
    return [
        "## Evaluation",
        "",
        "### Testing Data, Factors & Metrics",
        "",
        "#### Testing Data",
        "",
        _told((of_data.partitions(k), of_data.disjoint(k)), "who was tested"),
        "",
        "#### Factors",
        "",
        _told((of_data.by_center_counts(k),), "centers and groups of patients"),
        "",
        "#### Metrics",
        "",
        *(f"- {name}: {what}" for key, (name, what) in evidence.truth.metrics.items() if key in evidence.own),
        "",
        "### Results",
        "",
        "Out of fold, patient level; intervals are 95 %, patients resampled.",
        "",
        *results(evidence),
        "",
        "#### Summary",
        "",
        sentence(evidence, k.spread),
        "",
        *figures(evidence),
        "",
    ]


def _environment(k: Known) -> list[str]:
    record = k.record
    lines = of_model.compute_lines(record, record.models)
    machine = str(record.hardware.get("gpu") or record.hardware.get("processor") or "")
    return [
        "## Environmental Impact",
        "",
        f"- **Hardware Type:** {plain(machine) or gap('what it was trained on')}",
        f"- **Hours used:** {f'{record.seconds / 3600:.3g}' if lines else gap('for how long')} (training alone)",
        f"- **Energy:** {plain(' '.join(own for own in lines if own.startswith('Energy'))) or gap('how much')}",
        f"- **Compute Region:** {gap('where it ran')}",
        f"- **Carbon Emitted:** {gap('the energy times what a kWh emits there')}",
        "",
    ]


def _technical(k: Known) -> list[str]:
    return [
        "## Technical Specifications",
        "",
        "### Model Architecture and Objective",
        "",
        _told((of_model.model(k), of_model.output(k), of_model.ensemble(k)), "the layers"),
        "",
        "### Compute Infrastructure",
        "",
        "#### Hardware",
        "",
        _told((of_model.compute(k),), "the machine"),
        "",
        "#### Software",
        "",
        _told((of_model.software(k),), "the versions"),
        "",
    ]


def _citation(k: Known) -> list[str]:
    return [
        "## Citation",
        "",
        gap("how the study is to be cited"),
        "",
        "## Model Card Authors",
        "",
        f"Written by gigamil from the run's own files; {gap('who checked it')}",
        "",
        "## Model Card Contact",
        "",
        gap("whom to ask"),
    ]
