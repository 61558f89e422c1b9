"""Links in README.md and docs/ lead somewhere, and every page and picture is reached."""

import re

import pytest
from documents import DOCUMENTS, REPOSITORY

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _links(document: str) -> list[str]:
    """Targets of links inside the repository."""
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [target for target in _LINK.findall(text) if "://" not in target]


def _anchors(document: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", (REPOSITORY / document).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (REPOSITORY / document).parent
    for target in _links(document):
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else REPOSITORY / document
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path.relative_to(REPOSITORY).as_posix()), target


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_files_and_folders_that_are_named_exist(document):
    named = re.findall(
        r"`((?:mfg_jax|tfds_builders|configs|tests|launch|benchmarks)/[\w./-]*)`",
        (REPOSITORY / document).read_text(),
    )
    missing = {name for name in named if not (REPOSITORY / name).exists()}
    # A place that the reader is told to fill.
    assert {name for name in missing if "NAME" not in name} == set()


def test_every_page_is_in_the_list_of_pages():
    pages = {f"docs/{target}" for target in _links("docs/README.md")} | {"docs/README.md", "README.md"}
    assert set(DOCUMENTS) - pages == {"CONTRIBUTING.md"}
    assert "docs/README.md" in _links("README.md")


def test_every_picture_is_shown():
    folder = REPOSITORY / "docs"
    shown = {
        ((REPOSITORY / document).parent / target).resolve()
        for document in DOCUMENTS
        for target in _links(document)
    }
    pictures = {path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")}
    assert pictures
    assert pictures <= shown
