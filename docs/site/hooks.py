"""What the site shows otherwise than the files in the repository do; MkDocs calls it for each page."""

from __future__ import annotations

import re
from typing import Any

SOURCE_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?:README\.md|[\w/]+\.(?:py|yaml))(?:#[\w-]+)?)\)")
NAMED_FILE = re.compile(r"^( *)<!-- file: (\S+) -->\n( *```\w+)$", re.MULTILINE)


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Link files of the repository where the site has its address, else name them; give code blocks their file names.

    Args:
        markdown: Text of a page.
        config: Configuration of MkDocs, of which `repo_url` counts.
    """
    url = config["repo_url"]
    target = rf"[\1]({url.rstrip('/')}/blob/main/\2)" if url else r"\1"
    return NAMED_FILE.sub(r'\1<!-- file: \2 -->\n\3 title="\2"', SOURCE_LINK.sub(target, markdown))
