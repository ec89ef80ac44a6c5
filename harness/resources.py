"""Where the folders of plain files are: beside the package in a checkout, inside it in an install."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """The absolute path of a resource folder: `conf`, `suites` or `reports`."""
    inside = PACKAGE / "_resources" / name
    return inside if inside.is_dir() else PACKAGE.parent / name
