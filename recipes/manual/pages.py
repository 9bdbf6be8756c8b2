"""Which pages there are: the READMEs as they are, one for each module, one for each file that is linked to."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from recipes.readme.code import read_floors

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
"""Where a relative link of Markdown leads, without what stands behind its ``#``."""
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def find_readmes() -> list[str]:
    """The READMEs, by their places."""
    found = [
        ROOT / "README.md",
        *sorted(ROOT.glob("ftmech_hf/**/README.md")),
        *sorted(ROOT.glob("recipes/**/README.md")),
    ]
    return [path.relative_to(ROOT).as_posix() for path in found]


def page_of(path: str) -> str:
    """The page that stands for a file or a folder that READMEs link to."""
    place = ROOT / path
    if place.is_dir():
        return f"{path}/README.md" if (place / "README.md").is_file() else page_of(f"{path}/__init__.py")
    if place.suffix == ".py" and path.startswith("ftmech_hf/"):
        return f"reference/{path.removesuffix('/__init__.py').removesuffix('.py')}.md"
    if place.suffix in (".md", ".png"):
        return path.removeprefix(".github/")
    return f"files/{path}.md"


def relative(target: str, start: str) -> str:
    """A page's address as seen from another page."""
    parts, here = PurePosixPath(target).parts, PurePosixPath(start).parent.parts
    same = next((n for n, (a, b) in enumerate(zip(parts, here, strict=False)) if a != b), min(len(parts), len(here)))
    return "/".join([".."] * (len(here) - same) + list(parts[same:]))


def linked_files(readme: str) -> set[str]:
    """The files of the repository that a README links to, by their places."""
    text = CODE.sub("", (ROOT / readme).read_text(encoding="utf-8"))
    return {((ROOT / readme).parent / link).resolve().relative_to(ROOT).as_posix() for link in LINK.findall(text)}


def module_pages() -> dict[str, str]:
    """Page -> its text, for every module of the package."""
    pages = {}
    for path in sorted((ROOT / "ftmech_hf").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        pages[page_of(place)] = f"# {module}\n\n::: {module}\n"
    return pages


def file_page(path: str) -> str:
    """A page with the text of a file."""
    language = {".py": "python", ".yaml": "yaml", ".j2": "html+jinja"}.get(Path(path).suffix, "text")
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text(encoding='utf-8')}````\n"


def _modules(folder: Path) -> list[Any]:
    """The part of the navigation for a package: itself, its modules, its packages."""
    inside: list[Any] = [page_of((folder / "__init__.py").relative_to(ROOT).as_posix())]
    inside += [
        {path.stem: page_of(path.relative_to(ROOT).as_posix())}
        for path in sorted(folder.glob("*.py"))
        if path.stem != "__init__"
    ]
    inside += [{path.parent.name: _modules(path.parent)} for path in sorted(folder.glob("*/__init__.py"))]
    return inside


def navigation() -> list[Any]:
    """What stands in the menus: the front page, recipes, studies, the package's READMEs, and its modules."""
    readmes = find_readmes()
    package, names = ROOT / "ftmech_hf", [name for floor in read_floors(ROOT) for name in floor]
    folders = [package / name for name in names if (package / name).is_dir()]
    modules = [{name: page_of(f"ftmech_hf/{name}.py")} for name in names if (package / f"{name}.py").is_file()]
    return [
        {"ftmech_hf": "README.md"},
        {"Recipes": [each for each in readmes if each.startswith("recipes/")]},
        {"Studies": [each for each in readmes if each.startswith("ftmech_hf/studies/")]},
        {"Package": [each for each in readmes if each.startswith("ftmech_hf/") and "/studies/" not in each]},
        {
            "API": [
                page_of("ftmech_hf/__init__.py"),
                *modules,
                *({folder.name: _modules(folder)} for folder in folders),
            ]
        },
    ]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add all pages, and say what stands in the menus."""
    readmes = find_readmes()
    pages: dict[str, str | bytes] = {**module_pages()}
    for readme in readmes:
        pages[readme] = (ROOT / readme).read_text(encoding="utf-8")
        for path in linked_files(readme):
            page = page_of(path)
            if page.endswith(".png"):
                pages[page] = (ROOT / path).read_bytes()
            elif page.startswith("files/"):
                pages[page] = file_page(path)
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    config.nav = navigation()
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to the pages that stand for them; comments do not stand in a column.

    A page is narrower than a terminal, and its commands wrap.
    """
    here = page.file.src_uri
    if here not in find_readmes():
        return markdown

    def lead(match: re.Match[str]) -> str:
        path = ((ROOT / here).parent / match[1]).resolve().relative_to(ROOT).as_posix()
        return relative(page_of(path), here)

    pieces = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        re.sub(r"(?<=\S) +# ", "  # ", piece) if piece.startswith("```") else LINK.sub(lead, piece) for piece in pieces
    )
