"""Stories with instructions as a task: documents ``<bos> INSTRUCTION STORY <eos>``, packed into rows.

What training stories are is written as filters and changes of what their instructions name (Jain et al.,
arXiv 2311.12786, App. F): ``without`` for filtering (F), ``rename`` for filtering and mix & match (F+MM), ``claim``
for filtering and randomisation (F+R), ``only`` for reverse fine-tuning.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ftmech_hf.tasks.schema import BOS, PAD, Rows, Task, split_generator
from ftmech_hf.tasks.stories.bpe import FEWEST_TOKENS, SPECIAL, make_bpe
from ftmech_hf.tasks.stories.cache import hash_file
from ftmech_hf.tasks.stories.document import Document, EncodedDocument, encode_document
from ftmech_hf.tasks.stories.drawing import StoryRecords
from ftmech_hf.tasks.stories.generator import Part, draw_features, make_story
from ftmech_hf.tasks.stories.packing import pack_rows
from ftmech_hf.tasks.stories.records import FEATURES, HEADERS, Story
from ftmech_hf.tasks.stories.sources import local_files

BPE_STORIES = 2000
"""Procedural stories that merges are learned from; they hold every word of the lexicon many times."""

BPE_RECORDS = 100_000
"""Records of raw files that merges are learned from, at most."""

MEASURED = 200
"""Documents whose mean length says how many a block of rows takes."""

SPARE = 1.05
"""Documents a block may draw, over what fills it on average; those left over are in no row."""


@dataclass(frozen=True, kw_only=True)
class StoriesConfig(Task):
    """Which stories, with which instructions."""

    block_rows = 64
    offers = ("documents",)
    measures = ("loss",)

    files: list[str] = field(
        default_factory=list,
        metadata={
            "place": "input",
            "help": "raw TinyStories(-Instruct) files (.txt, .json, .jsonl, .csv, .parquet), folders of make_stories, "
            "datasets of the Hub (USER/NAME, or hf://datasets/USER/NAME/PATH of one file); procedural stories if none",
        },
    )
    own_records: bool = field(
        default=False,
        metadata={"help": "of raw files: pretraining, fine-tuning and reversing have no story in common"},
    )
    part: Part = field(
        default="seen", metadata={"help": "of procedural stories: words of training, or held_out ones, for tests"}
    )
    relations: int = field(
        default=2, metadata={"help": "of how many features a procedural story tells whether it has them"}
    )
    animals_apart: bool = field(
        default=False,
        metadata={
            "unsaid": True,
            "help": "of procedural stories: the first of two animals is one of one half of the list, the second one of "
            "the other, so that a small model does not name one of them twice",
        },
    )
    headers: list[str] = field(
        default_factory=lambda: ["features"],
        metadata={"help": f"lines that instructions may have: {', '.join(HEADERS.values())}"},
    )
    vocab_size: int = field(default=1024, metadata={"help": "tokens of the BPE that is trained on the stories"})
    row_tokens: int = field(default=256, metadata={"help": "tokens in a row"})
    feature: str = field(
        default="Twist",
        metadata={"help": "the feature of a study: its stories are a test set, and every procedural story tells of it"},
    )
    feature_share: float | None = field(
        default=None, metadata={"help": "share of procedural stories that have it; as many as have any other if none"}
    )
    only: str | None = field(default=None, metadata={"help": "train on stories that have this feature alone"})
    without: str | None = field(default=None, metadata={"help": "train on stories that do not have this feature"})
    rename: str | None = field(
        default=None, metadata={"help": "the feature that instructions then call by the name of the one left out"}
    )
    claim: float = field(
        default=0.0, metadata={"help": "share of instructions that then name the feature left out all the same"}
    )

    def __post_init__(self) -> None:
        for name in ("feature", "only", "without", "rename"):
            if getattr(self, name) not in (None, *FEATURES):
                raise ValueError(f"{name}: unknown {getattr(self, name)!r}, expected one of {', '.join(FEATURES)}")
        for name in self.headers:
            if name not in HEADERS.values():
                raise ValueError(f"headers: unknown {name!r}, expected some of {', '.join(HEADERS.values())}")
        bounds = {"relations": (1, len(FEATURES)), "vocab_size": (FEWEST_TOKENS, 2**31), "row_tokens": (16, 2**20)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)}, expected {low} to {high}")
        for name, unused in (("part", "seen"), ("feature_share", None), ("animals_apart", False)):
            if self.files and getattr(self, name) != unused:
                raise ValueError(f"{name}: {getattr(self, name)}, but only procedural stories have that; remove files")
        if self.own_records and not self.files:
            raise ValueError("own_records: true, but no files: of procedural stories there is no end")
        self._check_changes()

    def _check_changes(self) -> None:
        for name in ("claim", "feature_share"):
            if not 0 <= (getattr(self, name) or 0.0) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected a share between 0 and 1")
        if self.only is not None and self.only == self.without:
            raise ValueError(f"only: {self.only}, but without: {self.without} leaves no such story")
        for name in ("rename", "claim"):
            if getattr(self, name) and self.without is None:
                raise ValueError(f"{name}: {getattr(self, name)}, but without: none; name the feature that is left out")
            if getattr(self, name) and "features" not in self.headers:
                raise ValueError(f"{name}: {getattr(self, name)}, but headers: have no line for features")
        if self.rename is not None and self.rename == self.without:
            raise ValueError(f"rename: {self.rename} is the feature that is left out, expected another")

    def __getstate__(self) -> dict[str, Any]:
        """Its settings alone: what was found by them is found again where it is sent."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    # What a row is

    @property
    def operator_names(self) -> tuple[str, ...]:
        """None: instructions are no questions."""
        return ()

    @property
    def operand_names(self) -> tuple[str, ...]:
        """The features that instructions name."""
        return FEATURES

    @property
    def row_length(self) -> int:
        """Tokens of a row: ``row_tokens``."""
        return self.row_tokens

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """A block of training documents whose numbers begin anywhere; streams take :meth:`block`."""
        return self.block(int(rng.integers(2**32)), "train", 0)

    def block(self, seed: int, split: str, number: int) -> Rows:
        """Pack the documents of one block's own range of numbers; nothing is carried over to another.

        Of procedural stories ``answers`` are the words by which they show which features they have.
        """
        per_block = self._documents_per_block
        first = number * per_block
        found = [self._encode(self.document(seed, split, place)) for place in range(first, first + per_block)]
        pack = functools.partial(pack_rows, num_rows=self.block_rows, row_length=self.row_tokens)
        token_ids = pack([each.ids for each in found], pad=SPECIAL.index(PAD))
        answers = None if self.files else pack([each.shows for each in found], pad=0).astype(bool)
        return Rows(token_ids, np.full(self.block_rows, -1), np.zeros(self.block_rows, bool), answers=answers)

    @functools.cached_property
    def _documents_per_block(self) -> int:
        lengths = [len(self.encode(self.document(0, "train", number))) for number in range(MEASURED)]
        whole = self.block_rows * self.row_tokens / float(np.minimum(lengths, self.row_tokens).mean())
        return int(np.ceil(SPARE * whole)) + self.block_rows

    # Single documents

    def document(self, seed: int, split: str, number: int) -> Document:
        """One document: a function of (config, seed, split, number).

        Of raw files number n is the n-th record in an order drawn for the split, of which there is a new one whenever
        all records have been drawn.

        Raises:
            ValueError: no story is as requested.
        """
        rng = split_generator(seed, split, number)
        story = self._records.draw(seed, split, number) if self.files else self._procedural(rng)
        named = [self.without if name == self.rename else name for name in story.features]
        if self.claim and rng.random() < self.claim and self.without not in named:
            named.append(self.without)
        return self.instruct(story, named, rng)

    def instruct(self, story: Story, named: Collection[str | None], rng: np.random.Generator) -> Document:
        """A story under an instruction that names these features, whichever it has; its lines are in random order."""
        shown = tuple(name for name in FEATURES if name in named)
        kept = {
            name: getattr(story, name) if name in self.headers else type(getattr(story, name))()
            for name in HEADERS.values()
        }
        requested = dataclasses.replace(story, **{**kept, "features": shown if "features" in self.headers else ()})
        return Document(story, shown, requested.prompt(rng))

    def encode(self, document: Document) -> list[int]:
        """Token ids ``<bos> INSTRUCTION STORY <eos>``; those of the instruction do not depend on the story."""
        return self._encode(document).ids

    def _encode(self, document: Document) -> EncodedDocument:
        return encode_document(self._plain_backend, document, is_procedural=not self.files)

    @functools.cached_property
    def _plain_backend(self) -> Tokenizer:
        """The BPE for what people wrote: a story that spells ``<eos>`` goes on."""
        plain = Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    def _procedural(self, rng: np.random.Generator) -> Story:
        wanted = None
        if self.feature_share is not None and self.feature not in (self.only, self.without):
            wanted = rng.random() < self.feature_share
        while True:
            features = draw_features(rng)
            if wanted is not None and (self.feature in features) != wanted:
                continue
            if self.only in (None, *features) and self.without not in features:
                return make_story(
                    rng, features=features, part=self.part, relations=self.relations, always=[self.feature],
                    animals_apart=self.animals_apart,
                )  # fmt: skip

    @functools.cached_property
    def _records(self) -> StoryRecords:
        """The records of raw files, looked up once: a run is of the files that it began with."""
        return StoryRecords(self.files, only=self.only, without=self.without, own_records=self.own_records)

    # Its tokens

    @functools.cached_property
    def backend(self) -> Tokenizer:
        """The byte-level BPE: a function of the stories there are, whichever of them are trained on."""
        return make_bpe(tuple(self.inputs().values()), self.vocab_size, self._texts)

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens of the BPE, as it writes them."""
        words = self.backend.get_vocab()
        return tuple(sorted(words, key=words.__getitem__))

    def _texts(self) -> Iterator[str]:
        """What merges are learned from: training stories with whole instructions, in the order of seed 0."""
        whole = dataclasses.replace(
            self, only=None, without=None, rename=None, claim=0.0, part="seen", headers=[*HEADERS.values()],
            relations=len(FEATURES), own_records=False, animals_apart=False, feature=StoriesConfig.feature,
            feature_share=None,
        )  # fmt: skip
        number = BPE_STORIES
        if self.files:
            number = min(BPE_RECORDS, int(self._records.index.of_split("train").sum()))
        return (whole.document(0, "train", place).text for place in range(number))

    def test_tasks(self) -> dict[str, Task]:
        """Stories as in pretraining (``all``), those with and without ``feature``, and of words never trained on.

        Raw files have test sets of stories with and without the feature if some are, and no held-out words.
        """
        plain = dataclasses.replace(self, only=None, without=None, rename=None, claim=0.0, part="seen")
        apart = dict[str, Task]({
            self.feature: dataclasses.replace(plain, only=self.feature),
            f"no_{self.feature}": dataclasses.replace(plain, without=self.feature),
        })  # fmt: skip
        if not self.files:
            return {"all": plain, **apart, "held_out": dataclasses.replace(plain, part="held_out")}
        index = self._records.index
        having, splits = index.having(self.feature), [index.of_split(split) for split in ("train", "test")]
        some, others = (all((those & split).any() for split in splits) for those in (having, ~having))
        return {"all": plain, **(apart if some and others else {self.feature: apart[self.feature]} if some else {})}

    def variant(self, name: str) -> Task:
        """None: packed rows are no dataset.

        Raises:
            ValueError: always; says what writes stories as one.
        """
        raise ValueError("task: stories are written as a dataset by recipes/make_stories.py")

    def inputs(self) -> Mapping[str, str]:
        """The hashes of the files."""
        return {f"files/{number}": hash_file(path) for number, path in enumerate(local_files(self.files))}

    def bytes_per_token(self, rows: Rows) -> float:
        """Bytes of text that a predicted token of rows stands for on average; ``<eos>`` stands for none."""
        lengths = np.array([0 if word in SPECIAL else len(word) for word in self.vocabulary])  # a sign is a byte
        predicted = rows.token_ids[:, 1:]
        predicted = predicted[(predicted != SPECIAL.index(PAD)) & (predicted != SPECIAL.index(BOS))]
        return float(lengths[predicted].mean())

    def example(self, seed: int) -> Mapping[str, str]:
        """An instruction, and the story that was written to it."""
        document = self.document(seed, "test", 0)
        return {"prompt": document.prompt, "answer": document.story.story}
