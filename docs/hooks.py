"""The site also holds the pictures of `results/`, which pages name as `../results/NAME`."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parent.parent / "results"


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures to the site."""
    for picture in sorted(RESULTS.glob("*.png")):
        path = f"results/{picture.name}"
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let pages find them there."""
    return markdown.replace("](../results/", "](results/")
