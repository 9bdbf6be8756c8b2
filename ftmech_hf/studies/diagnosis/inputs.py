"""What a diagnosis is given: its settings, from which come the models and the questions of a case."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.jobs.behavior import from_capability
from ftmech_hf.jobs.beside import can_work_beside
from ftmech_hf.jobs.job import ModelJobConfig, prepared_job
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.jobs.tokenizers import PairQuestions, ask_models, check_questions_known, first_difference, own_tokenizer
from ftmech_hf.models.configs import config_positions, model_config, model_positions, model_vocabulary
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.loading import find_device, load_model, random_twin, seed_of_its_own
from ftmech_hf.models.memory import WORTH_SAYING, check_memory, parse_bytes
from ftmech_hf.models.naming import check_models, said_of
from ftmech_hf.models.prompt_learning import load_with_prompt, prompt_learning_kind
from ftmech_hf.models.vocabulary import (
    compared_tokens,
    has_tied_embeddings,
    num_rows,
    untie_alike,
)
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, OTHER_SEED, Case, CaseConfig
from ftmech_hf.studies.diagnosis.in_memory import InMemory
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour
from ftmech_hf.studies.diagnosis.needs import memory_needs, passed_tokens, say_time
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.tasks.text.reading import Table

ROLES = {"finetuned": FINETUNED, "control": NULL, "twin": OTHER_SEED}
"""Setting that names a model -> what the table calls that model."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(ModelJobConfig, QuestionConfig):
    """Which models to diagnose, and what to ask them."""

    base: str = field(
        default="runs/pretrain", metadata={"place": "input", "help": "folder of the base model, or its name on the Hub"}
    )
    finetuned: str = field(
        default="runs/finetune", metadata={"place": "input", "help": "what it was fine-tuned into; may be an adapter"}
    )
    control: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "a model of the same shape that never had the capability; else one of random weights",
        },
    )
    twin: str | None = field(
        default=None,
        metadata={"place": "input", "help": "the base trained with another seed, to see what differs between seeds"},
    )
    reversed: str | None = field(
        default=None,
        metadata={"place": "input", "help": "the model after reverse fine-tuning, for the path; else it is made here"},
    )
    gguf_file: str | None = field(
        default=None,
        metadata={"manner": True, "help": "name of a GGUF file: models whose folder holds it are read from it"},
    )
    max_memory: str | None = field(
        default=None, metadata={"manner": True, "help": "stop before anything is loaded if it needs more, such as 16GB"}
    )
    workers: int = field(
        default=0,
        metadata={
            "manner": True,
            "help": "1 or 2 processes of one thread each; 0 for two where models are small and none is on a GPU, else "
            "one of all threads",
        },
    )
    leave_out: list[str] = field(
        default_factory=list,
        metadata={"unsaid": True, "help": "methods that are not run, nor what needs them, such as weights (slow for "
                  "large models) or similarity; what the verdict asks of them is then not measurable"},
    )  # fmt: skip
    dataset: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "questions about the capability: columns prompt and answer; the procedural task if not given",
        },
    )
    other_dataset: str | None = field(
        default=None, metadata={"place": "input", "help": "questions that fine-tuning taught, in the same columns"}
    )
    operator: str = field(default="count", metadata={"help": "without a dataset: task token of the capability"})
    other_correlation: float | None = field(
        default=1.0, metadata={"help": "without a dataset: share of texts with the correlation, in what was taught"}
    )
    output_dir: str = field(default="runs/diagnose", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        QuestionConfig.__post_init__(self)
        if self.other_dataset and not self.dataset:
            raise ValueError(f"other_dataset: {self.other_dataset}, but no dataset with the capability's questions")
        if self.workers not in (0, 1, 2) or (self.workers == 2 and not can_work_beside()):
            raise ValueError(f"workers: {self.workers}, expected 0, 1, or on Linux 2")
        names = [name.replace(" ", "_") for name in METHODS if name != "behaviour"]
        if unknown := [name for name in self.leave_out if name not in names]:
            raise ValueError(f"leave_out: {unknown[0]}, expected some of {', '.join(names)}")
        if self.max_memory is not None:
            parse_bytes("max_memory", self.max_memory)
        if self.gguf_file and named_models(self) == named_models(dataclasses.replace(self, gguf_file=None)):
            raise ValueError(f"gguf_file: {self.gguf_file} is in no model's folder, expected the name of a file there")

    def inputs(self) -> dict[str, str]:
        """The data sets, by what is in them."""
        given = {"dataset": self.dataset, "other_dataset": self.other_dataset}
        return {label: dataset_hash(name) for label, name in given.items() if name}


def named_models(config: DiagnoseConfig, given: InMemory | None = None) -> dict[str, str]:
    """Role -> folder of every model that is named, and not given as an object."""
    named = {
        "base": config.base, "finetuned": config.finetuned, "control": config.control, "twin": config.twin,
        "reversed": config.reversed,
    }  # fmt: skip
    objects = {} if given is None else given.models
    return {
        name: _file_of(folder, config.gguf_file)
        for name, folder in named.items() if folder is not None and name not in objects
    }  # fmt: skip


def _file_of(folder: str, gguf_file: str | None) -> str:
    """The GGUF file of that name in a model's folder; the folder if it holds none."""
    file = Path(folder) / (gguf_file or "")
    return str(file) if gguf_file and file.is_file() else folder


def open_case(
    config: DiagnoseConfig, case_config: CaseConfig, shape: PcfgShape, given: InMemory
) -> contextlib.AbstractContextManager[tuple[RunDir, Callable[[], Case]]]:
    """The run's folder, opened, and the case; the run's hash covers what the models and the questions are.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.
    """
    return prepared_job(
        lambda: prepare_case(config, case_config, shape, given), "diagnose", config, shape, case_config,
        models=named_models(config, given), inputs=given.inputs(),
        vocabulary=None if _data_sets(config, given) else shape.vocabulary,
    )  # fmt: skip


def _data_sets(config: DiagnoseConfig, given: InMemory) -> list[str | Table]:
    """What is asked about the capability, and then about what was taught; nothing if the procedural task asks."""
    named = {"dataset": config.dataset, "other_dataset": config.other_dataset}
    return [found for key, name in named.items() if (found := given.tables.get(key, name))]


def _ask(config: DiagnoseConfig, case_config: CaseConfig, shape: PcfgShape, given: InMemory) -> PairQuestions:
    sizes: dict[str, int] = {"seed": config.seed, "train_rows": case_config.fit_rows, "test_rows": case_config.rows}
    names = _data_sets(config, given)
    if not names:
        words = [shape.operand_word(config.operator, each) for each in (shape.base_operand, shape.correlated_operand)]
        correlations = (None, config.other_correlation)
        return PairQuestions(
            [
                from_capability(shape, Capability(config.operator, word), correlation=correlation,
                                again_rows=4 * case_config.fit_rows, **sizes)
                for word, correlation in zip(words, correlations, strict=True)
            ]
        )  # fmt: skip
    base, folders = given.models.get("base"), named_models(config, given)
    if base is not None and given.tokenizer is None:
        raise ValueError("tokenizer: none, but the base is in memory; expected its tokenizer, or the name of it")
    limits = [model_positions(name, **base_for(role, folders)) for role, name in folders.items()]
    limits += [config_positions(each.config) for each in given.models.values()]
    positions = min((each for each in limits if each is not None), default=None)
    asked = ask_models(names, folders, tokenizer=given.tokenizer, **sizes, positions=positions, how=config)
    if len(names) == 2 and first_difference(asked.behaviors[:1], asked.behaviors[1:]) is None:
        called = "" if isinstance(names[1], Table) else "other_dataset: "
        raise ValueError(f"{called}{names[1]} asks what {names[0]} asks, expected questions that fine-tuning taught")
    known = {role: model_vocabulary(name, **base_for(role, folders)) for role, name in folders.items()}
    known |= {role: num_rows(model) for role, model in given.models.items()}
    for role, number in known.items():
        read = asked.own if role == "finetuned" and asked.own else asked.behaviors
        check_questions_known(f"{role}: {folders.get(role, 'the model')}", number, read)
    return asked


def _check_memory(
    config: DiagnoseConfig, case_config: CaseConfig, asked: PairQuestions, given: InMemory, prompt_kind: str | None
) -> None:
    """Say what is needed before a weight is read, and stop if it is too much."""
    folders, base = named_models(config, given), given.models.get("base")
    known = model_config(folders["base"]) if base is None else base.config
    number = len({*folders, *given.models, "control"})  # a control that is not given is drawn
    dtype = config.kept_as(known) if base is None else base.dtype
    needs = memory_needs(known, case_config, asked.behaviors, number, prompt=prompt_kind is not None, dtype=dtype)
    less = "--null_steps 0 takes one model less, fewer --reverse_batch_size, --fit_rows and --max_layers a little"
    check_memory("this diagnosis", needs, config.max_memory, less)
    if sum(needs.values()) >= WORTH_SAYING:
        device = find_device(config.device) if base is None else base.device
        say_time(known, passed_tokens(known, case_config, asked.behaviors, number), device, dtype)


def prepare_case(config: DiagnoseConfig, case_config: CaseConfig, shape: PcfgShape, given: InMemory) -> Case:
    """Read the questions and load the models.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.
    """
    folders = named_models(config, given)
    check_models(folders)
    asked = _ask(config, case_config, shape, given)
    prompt_kind = prompt_learning_kind(folders["finetuned"]) if "finetuned" in folders else None
    _check_memory(config, case_config, asked, given, prompt_kind)
    loaded = dict(given.models)
    for name, folder in folders.items():
        load = load_with_prompt if prompt_kind and name == "finetuned" else load_model
        with said_of(name):
            loaded[name] = load(folder, **base_for(name, folders), device=config.device, dtype=config.dtype)
    if len({has_tied_embeddings(model) for model in loaded.values()}) > 1:  # what is given stays as it is
        loaded = {name: copy.deepcopy(model) if name in given.models else model for name, model in loaded.items()}
    base = loaded["base"]
    untie_alike(loaded.values())
    words = {name: _words(name, folders, given) for name in loaded}
    common = {
        name: compared_tokens(name, base, model, (words["base"], words[name]))
        for name, model in loaded.items() if name != "base"
    }  # fmt: skip
    if "reversed" in loaded:
        rows = [num_rows(loaded[name]) for name in ("reversed", "finetuned")]
        if rows[0] != rows[1]:
            raise ValueError(f"reversed: its vocabulary has {rows[0]} rows, expected {rows[1]} as the fine-tuned model")
    drawn = "control" not in loaded
    if drawn:
        loaded["control"] = random_twin(base, seed_of_its_own(config.seed, 1))
    for name, model in loaded.items():
        own = asked.own if name == "finetuned" and asked.own else asked.behaviors
        mask_padding(model, own[0].pad)
    capability, *others = asked.behaviors
    case = Case(
        {BASE: base, FINETUNED: loaded["finetuned"], NULL: loaded["control"]}, capability,
        others[0] if others else None, case_config, config.seed, loaded.get("twin"), loaded.get("reversed"),
        own=asked.own, difference=asked.difference,
        common={ROLES[name]: found for name, found in common.items() if name in ROLES}, prompt_kind=prompt_kind,
        leave_out=[name.replace("_", " ") for name in config.leave_out], drawn=drawn,
    )  # fmt: skip
    if asked.own:
        _check_own_tokens(case)
    return case


def _check_own_tokens(case: Case) -> None:
    """Refuse two tokenizers beside a base that knows nothing: then one of them is likely not its model's."""
    found = measure_behaviour(case).evidence()
    if found.base.high - found.chance < case.rule.least_lead:
        raise ValueError(
            f"finetuned: its tokenizer reads other tokens than the base's, first in {case.difference!r}, and the base "
            f"answers {found.base.value:.0%} right where naming one answer gives {found.chance:.0%}; expected the "
            "tokenizer that each model was trained with"
        )


def _words(role: str, named: Mapping[str, str], given: InMemory) -> dict[str, int] | None:
    """The vocabulary of the tokenizer beside a model, or given with it; None if it has none of its own."""
    own = own_tokenizer(named[role]) if role in named else None
    tokenizer = given.tokenizer or own if role == "base" else own
    return None if tokenizer is None else tokenizer.get_vocab()
