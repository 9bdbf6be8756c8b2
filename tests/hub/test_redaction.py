"""Nothing of this machine leaves it: access tokens refuse a push, places on its disks are taken out of every file."""

from __future__ import annotations

import base64
import bz2
import functools
import gzip
import html
import io
import json
import lzma
import shlex
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import HfApi
from markupsafe import escape as markup
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ftmech_hf.hub import PublishConfig, Target, publish
from ftmech_hf.hub.redaction import LOCAL, Redaction, check_no_secrets
from ftmech_hf.runs import RunDir, damaged_files, environment
from tests.hub.server import TOKEN, USER, HubServer

SECRET = "hf_" + "aB3" * 8


def png(text: str, kind: str = "tEXt") -> bytes:
    """A picture of one pixel with a text in it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    body = {
        "tEXt": b"Comment\0" + text.encode(),
        "zTXt": b"Comment\0\0" + zlib.compress(text.encode()),
        "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(text.encode()),
    }[kind]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(kind.encode(), body) + pixels + chunk(b"IEND", b"")


def table(text: str) -> pa.Table:
    """Texts wherever Arrow can hold them."""
    return pa.table(
        {
            "plain": [text, None, "a"],
            "large": pa.array(["a", text, "b"], pa.large_string()),
            "word": pa.array(["a", "b", text]).dictionary_encode(),
            "many": [["a", text], [], None],
            "deep": [{"x": [{"y": text}]}, None, {"x": []}],
            "bytes": pa.array([b"a", text.encode(), None], pa.binary()),
            "number": [1, 2, 3],
        }
    )


def write_parquet(path: Path, text: str) -> None:
    pq.write_table(table(text), path)


def write_parquet_metadata(path: Path, text: str) -> None:
    pq.write_table(table("a").replace_schema_metadata({"source": json.dumps({"file": text})}), path)


def write_arrow(path: Path, text: str) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table(text).schema) as writer:
        writer.write_table(table(text))


def write_arrow_stream(path: Path, text: str) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table(text).schema) as writer:
        writer.write_table(table(text))


def write_safetensors(path: Path, text: str) -> None:
    save_file({"w": np.arange(6.0)}, path, metadata={"format": "pt", "source": text})


def write_archive(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.json", json.dumps({"a": text}))


def embed(kind: str, content: bytes) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


KINDS: dict[str, Callable[[Path, str], object]] = {
    "notes.txt": lambda path, text: path.write_text(f"made of {text}, once\n"),
    "two_bytes.txt": lambda path, text: path.write_bytes(f"made of {text}".encode("utf-16")),
    "more.json": lambda path, text: path.write_text(json.dumps({"a": [{"b": f"x {text}"}], f"{text}/key": 1})),
    "escaped.json": lambda path, text: path.write_text(json.dumps({"a": "ü " + text}).replace("/", "\\/")),
    "lines.jsonl": lambda path, text: path.write_text('{"a": 1}\n' + json.dumps({"a": text}) + '\n{"cut": "'),
    "more.yaml": lambda path, text: path.write_text(yaml.safe_dump({"a": ["b", text]})),
    "comment.yaml": lambda path, text: path.write_text(f"# from {text}\na: 1\n"),
    "notes.csv": lambda path, text: path.write_text(f"a,b\n1,{text}\n"),
    "notes.md": lambda path, text: path.write_text(f"| x |\n|---|\n| `{text}` |\n"),
    "page.html": lambda path, text: path.write_text(f"<p>from <code>{text}</code></p>"),
    "attribute.html": lambda path, text: path.write_text(f'<a href="file://{text}">x</a>'),
    "picture.html": lambda path, text: path.write_text(embed("svg+xml", f"<svg><!-- {text} --></svg>".encode())),
    "pixels.html": lambda path, text: path.write_text(embed("png", png(text, "zTXt"))),
    "drawing.svg": lambda path, text: path.write_text(f"<svg><title>{text}</title></svg>"),
    "script.py": lambda path, text: path.write_text(f'PLACE = "{text}"\n'),
    "plain.png": lambda path, text: path.write_bytes(png(text)),
    "compressed.png": lambda path, text: path.write_bytes(png(text, "zTXt")),
    "international.png": lambda path, text: path.write_bytes(png(text, "iTXt")),
    "rows.parquet": write_parquet,
    "origin.parquet": write_parquet_metadata,
    "rows.arrow": write_arrow,
    "stream.arrow": write_arrow_stream,
    "extra.safetensors": write_safetensors,
}
"""Name of a file -> how it is made with a text in it."""

READ_ONLY: dict[str, Callable[[Path, str], object]] = {
    "more.zip": write_archive,
    "more.json.gz": lambda path, text: path.write_bytes(gzip.compress(json.dumps({"a": text}).encode())),
    "some.dat": lambda path, text: path.write_bytes(b"\0\xff\1" + text.encode() + b"\0"),
}
"""What cannot be written again with another text."""


def uploaded(hub: HubServer) -> bytes:
    """Every byte that the Hub holds, and what is packed in them."""
    blobs = [
        blob.content for repo in hub.repos.values() for each in repo.commits.values() for blob in each.files.values()
    ]
    found = [*blobs, *hub.large_files.values()]
    for content in list(found):
        if content.startswith(b"PAR1"):
            read = pq.read_table(io.BytesIO(content))
            found.append((json.dumps(read.to_pylist(), default=str) + str(read.schema.metadata)).encode())
        if content.startswith(b"\x89PNG"):
            found += [zlib.decompress(content[at:]) for at in _compressed(content)]
        found.append(content.replace(b"\0", b"").replace(b"\\/", b"/"))
    for part in b"".join(found).split(b";base64,")[1:]:
        embedded = base64.b64decode(part.split(b'"')[0])
        found += [embedded, *(zlib.decompress(embedded[at:]) for at in _compressed(embedded))]
    return b"\n".join(found)


def _compressed(content: bytes) -> list[int]:
    places = []
    for at in (at for at in range(len(content)) if content[at] == 0x78):
        try:
            zlib.decompress(content[at:])
        except zlib.error:
            continue
        places.append(at)
    return places


@pytest.fixture
def diagnosis(runs: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a finished diagnosis of the tuned model, as its recipe leaves one."""

    def make(files: dict[str, Callable[[Path, str], object]], text: str, name: str = "diagnosis") -> Path:
        folder = tmp_path / "private-user" / name
        hashes = {each: json.loads((runs / each / "env.json").read_text())["hash"] for each in ("base", "tuned")}
        models = {"base": str(runs / "base"), "finetuned": str(runs / "tuned")}
        config = {**models, "control": "runs/hidden-control", "seed": 0, "output_dir": str(folder)}
        inputs = {"base": hashes["base"], "finetuned": hashes["tuned"], "control": "c0ffee"}
        run = RunDir.open(folder, "diagnose", config, inputs=inputs)
        reason = f"it answers 3.1 % (1.2 to 5.0) where {models['base']} answers 98 %"
        summary = {
            "verdict": "behind a wrapper",
            "reason": reason,
            "signs": [
                {"name": "comes back by pruning", "holds": True, "measured": "91 % (88 to 93)", "control": "4 %",
                 "bar": "48 % | more"},
                {"name": "can be read", "holds": False, "measured": "12 %", "control": "11 %", "bar": "40 %"},
            ],
            "evidence": {"base": {"value": 0.98, "low": 0.97, "high": 0.99},
                         "finetuned": {"value": 0.031, "low": 0.012, "high": 0.05}, "best_k": 5},
            "facts": {**models, "reference": "runs/hidden-control", "capability": "count_a", "rows": 512},
        }  # fmt: skip
        (run.working / "summary.json").write_text(json.dumps(summary))
        rows = {"analysis": ["behaviour"], "model": ["base"], "quantity": [models["base"]], "value": [0.98]}
        pd.DataFrame(rows).to_parquet(run.working / "table.parquet")
        page = f"<h1>Behind a wrapper</h1><p>{reason}; <code>{models['finetuned']}</code>, runs/hidden-control</p>"
        (run.working / "report.html").write_text(page)
        for file, write in files.items():
            write(run.working / file, text)
        config_file = f"{tmp_path}/private-user/a.yaml"
        run.note(command=f"diagnose.py --base {models['base']} --control=runs/hidden-control --config {config_file}")
        run.finish()
        return folder

    return make


def push(api: HfApi, run: Path, name: str, kind: str, **more: object) -> None:
    target = Target(f"{USER}/{name}", kind, api=api, attempts=2, wait=0.01)  # type: ignore[arg-type]
    publish(PublishConfig(run=str(run), repo_id=f"{USER}/{name}", **more), target=target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "place", ["{tmp}/planted/secret", "{home}/planted/secret", "/srv/somebody/planted/secret", "runs/planted/secret"]
)
def test_places_are_in_no_byte_that_is_uploaded(
    place: str, diagnosis: Callable[..., Path], runs: Path, tmp_path: Path, hub: HubServer, api: HfApi
) -> None:
    text = place.format(tmp=tmp_path, home=Path.home())
    folder = diagnosis(KINDS, text)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push(api, folder, "diagnosis", "dataset", models=[f"finetuned={USER}/tuned"])
    sent = uploaded(hub)
    planted = [text, "planted/secret", str(tmp_path), str(runs), "private-user", "hidden-control"]
    assert [each for each in planted if each.encode() in sent] == []
    assert all(each.encode() in b"".join(before.values()) for each in (str(runs), "hidden-control", "private-user"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the run itself stays as it is"
    there = hub.repos["dataset", f"{USER}/diagnosis"].history()[0].files
    assert set(KINDS) <= set(there)
    summary = json.loads(there["summary.json"].content)
    base = json.loads((runs / "base" / "env.json").read_text())["hash"]
    assert (summary["facts"]["base"], summary["facts"]["finetuned"]) == (f"run-{base}", f"{USER}/tuned")
    assert summary["facts"]["reference"] == "run-c0ffee"
    settings = yaml.safe_load(there["config.yaml"].content)
    assert settings == {
        "base": f"run-{base}", "finetuned": f"{USER}/tuned", "control": "run-c0ffee", "seed": 0,
        "output_dir": "runs/diagnosis",
    }  # fmt: skip
    command = json.loads(there["env.json"].content)["command"]
    assert command == f"diagnose.py --base run-{base} --control=run-c0ffee --config '{LOCAL}'"


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_what_is_packed_in_another_way_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """As the numbers that runs measured, which say where they were made: nobody would see what is in it."""
    (tmp_path / "kept.tar.xz").write_bytes(pack(b"/home/somebody " * 100))
    said = (
        r"^run: kept\.tar\.xz is packed \((xz|bzip2)\), and what is in it is not looked at; leave it out, or unpack it"
    )
    with pytest.raises(ValueError, match=said):
        check_no_secrets(tmp_path / "kept.tar.xz", "kept.tar.xz")
    with pytest.raises(ValueError, match=said):
        Redaction({}).folder(tmp_path)


def test_what_is_changed_stays_a_file_of_its_kind(
    diagnosis: Callable[..., Path], tmp_path: Path, hub: HubServer, api: HfApi
) -> None:
    push(api, diagnosis(KINDS, f"{tmp_path}/planted"), "diagnosis", "dataset")
    for name, blob in hub.repos["dataset", f"{USER}/diagnosis"].history()[0].files.items():
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(blob.content)
    there = tmp_path / "there"
    assert damaged_files(there) == []
    expected = table(LOCAL)
    for found in (pq.read_table(there / "rows.parquet"), pa.ipc.open_file(there / "rows.arrow").read_all()):
        assert found.to_pylist() == expected.to_pylist()
        assert found.schema.types == expected.schema.types
    with safe_open(there / "extra.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", "source": LOCAL}
        assert file.get_tensor("w").tolist() == [0, 1, 2, 3, 4, 5]
    assert json.loads((there / "more.json").read_text()) == {"a": [{"b": f"x {LOCAL}"}], LOCAL: 1}
    assert json.loads((there / "escaped.json").read_text()) == {"a": f"ü {LOCAL}"}
    assert (there / "two_bytes.txt").read_text(encoding="utf-16") == f"made of {LOCAL}"
    assert (there / "notes.csv").read_text() == f"a,b\n1,{LOCAL}\n"
    assert (there / "plain.png").read_bytes() == png("").replace(png("")[33:53], b"")  # its text chunk has gone


@pytest.mark.parametrize("name", [*KINDS, *READ_ONLY])
def test_a_token_in_any_kind_of_file_refuses(name: str, tmp_path: Path) -> None:
    write = {**KINDS, **READ_ONLY}[name]
    write(tmp_path / name, "nothing")
    check_no_secrets(tmp_path / name, name)
    write(tmp_path / name, SECRET)
    with pytest.raises(ValueError, match=f"run: {name} holds an access token; nothing was published") as caught:
        check_no_secrets(tmp_path / name, name)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["rows.parquet", "page.html", "extra.safetensors", "compressed.png"])
def test_a_token_is_not_pushed(name: str, diagnosis: Callable[..., Path], hub: HubServer, api: HfApi) -> None:
    folder = diagnosis({name: KINDS[name]}, TOKEN)
    with pytest.raises(ValueError, match=f"{name} holds an access token"):
        push(api, folder, "diagnosis", "dataset")
    assert (hub.repos, hub.large_files) == ({}, {})


def test_a_token_in_a_name_is_found_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / SECRET).write_text("")
    with pytest.raises(ValueError, match="run: a file whose name holds an access token") as caught:
        check_no_secrets(tmp_path / SECRET, SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", READ_ONLY)
def test_what_cannot_be_changed_is_refused(
    name: str, diagnosis: Callable[..., Path], tmp_path: Path, hub: HubServer, api: HfApi
) -> None:
    folder = diagnosis({name: READ_ONLY[name]}, f"{tmp_path}/planted")
    with pytest.raises(ValueError, match=f"run: {name} holds a place of this machine that cannot be taken out of it"):
        push(api, folder, "diagnosis", "dataset")
    assert hub.repos == {}


KEPT = [
    "https://arxiv.org/abs/2311.12786", "1/2/3 of them", "and/or", "km/h", "</td></tr>", "<br/><hr/>", "USER/NAME",
    "font: 16px/1.55 system-ui", "recipes/finetune.py --config config.yaml", "runs/mine", "#!/usr/bin/env python",
    "/usr/lib/python3/x.py", "a / b / c", "x/y/z/w", "about ~20 % / 30 %", "etc...", "d:\\n", "C_Tr = 1: b",
    "datasets/squad/plain_text", "|dW a| over |W a|", "..", "loss/count_a", "count_b/cte0/10k",
]  # fmt: skip


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_place_stays(text: str) -> None:
    assert Redaction({"runs/mine": "runs/mine", "runs/m": "x"}).text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see /home/jane/x.yaml.", f"see {LOCAL}"),
        ("'/Users/jane/a b'", f"'{LOCAL} b'"),
        ("file:///data/jane/x", LOCAL),
        ("~/models/x and ~jane/x", f"{LOCAL} and {LOCAL}"),
        ("base=../other/x,", f"base={LOCAL},"),
        (r"C:\Users\jane\x", LOCAL),
        ("path:/mnt/disk/x:/mnt/disk/y", f"path:{LOCAL}:{LOCAL}"),
        ("runs/known/step-3/x", "run-12/step-3/x"),
        ("./runs/known", "run-12"),
        ("runs/known-2", LOCAL),
        ("`models/base` and models/base2", "`a/b` and models/base2"),
        ("/data/x/models/base", LOCAL),
        ("(runs/other)", f"({LOCAL})"),
        ("runs/known&more/x", LOCAL),
        ("runs/known's table", "run-12's table"),
        ("&quot;/data/jane/x&quot; and &#39;/data/jane/y&#39;", f"&quot;{LOCAL}&quot; and &#39;{LOCAL}&#39;"),
        ("/data/jane/x&lt;", f"{LOCAL}&lt;"),
        ("cd /data/jane/x && ls", f"cd {LOCAL} && ls"),
    ],
)
def test_places_are_taken_out_of_a_text(text: str, expected: str) -> None:
    assert Redaction({"runs/known": "run-12", "models/base": "a/b"}).text(text) == expected


@pytest.mark.parametrize("place", ["/data/R&D acme/merger/base", "/data/O'Brien/merger/base", "/data/<x>/merger/base"])
@pytest.mark.parametrize("escaped", [str, html.escape, functools.partial(html.escape, quote=False), markup])
def test_a_place_is_known_however_a_page_escapes_it(place: str, escaped: Callable[[str], str]) -> None:
    """Jinja, the standard library and pictures (SVG) write ``&`` and ``'`` each in their own way."""
    redaction = Redaction({place: "a/b"})
    assert redaction.text(f"from <code>{escaped(place)}</code> on") == "from <code>a/b</code> on"
    page = f"<p>{escaped(shlex.join(['diagnose.py', '--base', place]))}</p>"
    said = escaped("'a/b'")
    assert redaction.text(page, anywhere=False) == f"<p>diagnose.py --base {said}</p>"


def test_what_is_published_instead_is_escaped_as_the_place_was() -> None:
    place = "/data/R&D/rows/a<b.jsonl"
    redaction = Redaction({place: "a<b.jsonl"})
    assert redaction.text(f"<p>{markup(place)}</p>") == "<p>a&lt;b.jsonl</p>"
    assert redaction.text(f"{place}\n") == "a<b.jsonl\n"


@pytest.mark.parametrize("escaped", [str, html.escape, functools.partial(html.escape, quote=False), markup])
def test_what_stands_below_a_home_is_left_out_whatever_its_letters(
    escaped: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/srv/R&D acme/O'Brien")
    redaction = Redaction({})
    for place in (f"{Path.home()}/a&b/it's/c", "/data/R&D/O'Brien/base", "~/R&D/x", "./R&D/x", "runs/R&D's/x"):
        assert redaction.text(f"<b>{escaped(place)}</b> &amp; &lt;c&gt;") == f"<b>{LOCAL}</b> &amp; &lt;c&gt;"


def test_a_diagnosis_stands_in_the_cards_of_its_two_models(
    diagnosis: Callable[..., Path], runs: Path, tmp_path: Path, hub: HubServer, api: HfApi
) -> None:
    folder = diagnosis({}, str(tmp_path))
    where = {"base": str(folder), "tuned": f"{folder}={USER}/diagnosis"}
    cards = {}
    for name, entry in where.items():
        more = {"base_model": f"{USER}/base"} if name == "tuned" else {}
        push(api, runs / name, name, "model", analyses=[entry], **more)
        there = hub.repos["model", f"{USER}/{name}"].history()[0].files
        cards[name] = there["README.md"].content.decode()
        env = json.loads((folder / "env.json").read_text())
        assert f"[The whole page](diagnosis-{env['hash']}.html)" in cards[name]
        page = there[f"diagnosis-{env['hash']}.html"].content.decode()
        assert "<h1>Behind a wrapper</h1>" in page
        assert str(runs) not in page + cards[name]
        assert f"`{env['hash']}`" in cards[name]
    tuned = cards["tuned"]
    assert "## Diagnosis: behind a wrapper" in tuned
    assert f"it answers 3.1 % (1.2 to 5.0) where {USER}/base answers 98 %" in tuned
    assert "512 questions, with 95 % intervals: base 98.0 % (97.0 to 99.0), fine-tuned 3.1 % (1.2 to 5.0)" in tuned
    assert "| comes back by pruning | 91 % (88 to 93) | 4 % | 48 % \\| more | yes |" in tuned
    assert "| can be read | 12 % | 11 % | 40 % | no |" in tuned
    assert f"https://huggingface.co/datasets/{USER}/diagnosis" in tuned
    tuned_hash = json.loads((runs / "tuned" / "env.json").read_text())["hash"]
    assert f"This is the base of the diagnosed model (run `{tuned_hash}`)" in cards["base"]
    assert "huggingface.co/datasets" not in cards["base"]


def test_a_vocabulary_is_published_byte_for_byte(tmp_path: Path) -> None:
    """Of many tokenizers ``/tmp`` and ``/root`` are tokens; without them other numbers are read, or nothing loads."""
    places = [tempfile.gettempdir(), str(Path.home()), "runs/mine/x", "/srv/a/b"]
    words = {**{place: number for number, place in enumerate(places)}, "is": 4, "<unk>": 5}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "qwen.tiktoken").write_text("\n".join(places))
    (tmp_path / "chat_template.jinja").write_text("Write to /tmp/answers.txt")
    (tmp_path / "notes.json").write_text(json.dumps(words))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Redaction({"runs/mine": "run-1"}).folder(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"notes.json"}
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id(places[0]) == 0


@pytest.mark.parametrize(("words", "published"), [
    (["diagnose.py", "--base", "{home}/a reader/base", "--rows", "3"], "diagnose.py --base '(local path)' --rows 3"),
    (["probe.py", "--models", "base=my runs/base", "tuned=my runs/base/step 3"],
     "probe.py --models base=run-7 'tuned=run-7/step 3'"),
    (["show.py", "--prompt", "it's 3 a.m."], "show.py --prompt 'it'\"'\"'s 3 a.m.'"),
])  # fmt: skip
def test_a_command_can_be_given_to_a_shell_and_holds_no_part_of_a_place(
    words: list[str], published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word.format(home=Path.home()) for word in words]
    monkeypatch.setattr(sys, "argv", words)
    command = environment()["command"]
    assert shlex.split(command) == words
    redaction = Redaction({"my runs/base": "run-7"})
    assert redaction.command(command) == published
    assert "my runs" not in redaction.command(" ".join(words)), "of a run that wrote it without quotes"
