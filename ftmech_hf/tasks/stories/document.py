"""A story under an instruction, and its tokens."""

from __future__ import annotations

from typing import NamedTuple

from tokenizers import Tokenizer

from ftmech_hf.tasks.schema import BOS, EOS
from ftmech_hf.tasks.stories.bpe import SPECIAL
from ftmech_hf.tasks.stories.reading import answer_places
from ftmech_hf.tasks.stories.records import Story


class Document(NamedTuple):
    """A story, and what its instruction says.

    Attributes:
        story: with the features that it really has.
        named: the features that the instruction names; others under ``rename`` and ``claim``.
        prompt: the instruction, up to where the story begins.
    """

    story: Story
    named: tuple[str, ...]
    prompt: str

    @property
    def text(self) -> str:
        """The instruction and the story."""
        return self.prompt + self.story.story


class EncodedDocument(NamedTuple):
    """Token ids ``<bos> INSTRUCTION STORY <eos>``.

    Attributes:
        ids: of all tokens; those of the instruction do not depend on the story.
        shows: whether a token is of a word by which a procedural story shows a feature.
    """

    ids: list[int]
    shows: list[bool]


def encode_document(backend: Tokenizer, document: Document, *, is_procedural: bool) -> EncodedDocument:
    """The tokens of a document; in a story that is not procedural, none is known to show a feature."""
    prompt, story = (backend.encode(text) for text in (document.prompt, document.story.story))
    places = answer_places(document.story.story) if is_procedural else []
    shows = [any(start < last and end > first for first, last in places) for start, end in story.offsets]
    ids = [SPECIAL.index(BOS), *prompt.ids, *story.ids, SPECIAL.index(EOS)]
    return EncodedDocument(ids, [*[False] * (1 + len(prompt.ids)), *shows, False])
