"""After `import ftmech_hf` transformers' auto classes load compiled programs, whoever imports what in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.jobs.compiling import save_compiled
from ftmech_hf.models.conversion import load_artefact
from tests.processes import run_fresh

LOAD = "print(type(transformers.{}.from_pretrained(sys.argv[1])).__name__)"
ORDERS = {
    "ours first": f"import ftmech_hf, transformers; {LOAD.format('AutoModel')}",
    "theirs first": (
        "import transformers; from transformers import AutoConfig; import ftmech_hf; "
        "assert type(AutoConfig.from_pretrained(sys.argv[1])).__name__ == 'CompiledConfig'; "
        + LOAD.format("AutoModelForCausalLM")
    ),
    "theirs in the middle of another import": (
        "import ftmech_hf, transformers; from transformers import PreTrainedModel; "
        + LOAD.format("AutoModelForTokenClassification")
    ),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    save_compiled(*load_artefact("counter_a_9x20"), folder)
    return folder


def run(code: str, folder: Path) -> str:
    done = run_fresh(["-c", f"import sys; {code}", str(folder)], cwd=Path(__file__).parents[2])
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_compiled_programs(order: str, program: Path) -> None:
    assert run(ORDERS[order], program) == "CompiledModel"


def test_without_this_package_they_do_not(program: Path) -> None:
    assert "compiled_program" in run(f"import transformers; {LOAD.format('AutoModel')}", program)


def test_nothing_stays_in_the_way_of_imports() -> None:
    code = "import ftmech_hf; from transformers import AutoConfig; print([str(each) for each in sys.meta_path])"
    printed = run(code, Path())
    assert "PathFinder" in printed
    assert "ftmech_hf" not in printed
