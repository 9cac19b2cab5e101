"""What mkdocs makes at build time, so that no page can go stale: the command line's page, the examples."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# mkdocs imports this file by its path alone.
sys.path.insert(0, str(Path(__file__).parent))

from command_line import command_line_page
from notebooks import notebook_page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from code and notebooks."""
    files.append(File.generated(config, "cli.md", content=command_line_page()))
    examples = Path(config.config_file_path).parent / "examples"
    readme = (examples / "README.md").read_text(encoding="utf-8").replace(".ipynb)", ".md)")
    files.append(File.generated(config, "examples/README.md", content=readme))
    for path in sorted(examples.glob("*.ipynb")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=notebook_page(path)))
    return files
