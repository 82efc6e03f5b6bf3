"""The documents: links and anchors lead somewhere, scripts and modules that they name exist, README stays short."""

import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"node_modules", "out", "build", "dist"}
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("*.md")
    if not any(part in LEFT_OUT or part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def without_code(text: str) -> str:
    """The prose of a document: fenced and indented blocks left out."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    slugs: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *#*$", without_code(path.read_text()), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in slugs)
        slugs.append(f"{slug}-{count}" if count else slug)
    return set(slugs)


def links(path: Path) -> list[str]:
    """The targets of links and pictures that are no addresses."""
    prose = re.sub(r"`[^`\n]*`", "", without_code(path.read_text()))
    found = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, re.M)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def dead(path: Path) -> list[str]:
    """The links of a document that lead nowhere."""
    out = []
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = path if not name else path.parent / name
        if not target.exists() or (anchor and anchor not in anchors(target)):
            out.append(link)
    return out


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_scripts_and_modules_exist(document):
    text = (ROOT / document).read_text()
    assert dead(ROOT / document) == []
    scripts = set(re.findall(r"(?:python3? +|`)((?:jobs|tests/benchmarks|docs)/[\w/]+\.py)", text))
    if document.name == "CHANGELOG.md":  # tells of files that have gone since
        return
    paths = set(re.findall(r"\b((?:raylib|tests|configs)/[\w/\-]+\.(?:py|md|yaml|json|safetensors))\b", text))
    assert [name for name in sorted(scripts | paths) if not (ROOT / name).is_file()] == []
    folders = re.findall(r"`((?:raylib|tests|docs|configs|k8s|jobs)/(?:[\w\-]+/)*)`", text)
    assert [name for name in folders if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_definitions_that_documents_name_stand_in_their_modules(document):
    missing = []
    for dotted in re.findall(r"`(raylib(?:\.\w+)+)", (ROOT / document).read_text()):
        parts = dotted.split(".")
        at = next(
            n
            for n in range(len(parts), 0, -1)
            if (ROOT.joinpath(*parts[:n])).is_dir() or ROOT.joinpath(*parts[:n]).with_suffix(".py").is_file()
        )
        place = ROOT.joinpath(*parts[:at])
        source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
        if at < len(parts) and not re.search(rf"\b{parts[at]}\b", source):
            missing.append(dotted)
    assert missing == []


def test_a_link_to_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# It's `one`, two\n\n    # no heading\n## Twice\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#its-one-two) [b](other.md#twice-1) [c](other.md#no-heading) [d](gone.md) [e](#gone)\n"
        "![f](gone.png) [g](https://example.org/gone) `[h](code.md)`\n\n    [i](code.md)\n"
    )
    assert dead(page) == ["other.md#no-heading", "gone.md", "#gone", "gone.png"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1100


def test_every_page_can_be_reached_from_the_index():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [page.parent / link.partition("#")[0] for link in links(page) if not link.startswith("#")]
    pages = {(ROOT / d).resolve() for d in DOCUMENTS if d.parts[0] == "docs" or d.parts[:2] == ("raylib", "weights")}
    assert pages - reached == set()


def test_the_picture_of_the_flow_is_what_its_script_draws_of_packages_that_exist():
    script = runpy.run_path(str(ROOT / "docs" / "flow.py"))
    text = (ROOT / "docs" / "flow.svg").read_text()
    assert text == script["drawing"]()
    ElementTree.fromstring(text)
    packages = [package for _, _, package in script["STAGES"] if package]
    packages += [f"raylib/{name}" for name in (*script["BASIS"], *(name for name, _ in script["SPREAD"]))]
    assert [name for name in packages if not (ROOT / name).is_dir()] == []


def test_the_table_of_packages_is_whole():
    rows = set(re.findall(r"^\| `raylib/(\w+)", (ROOT / "docs" / "CONTRIBUTING.md").read_text(), re.M))
    there = {path.parent.name for path in (ROOT / "raylib").glob("*/__init__.py")}
    assert there - rows == set()
