"""Passwords in a storage URL: read from the environment, never written to a file or message.

``${NAME}`` in a URL refers to an environment variable; files and messages show ``${NAME}``. A password that
is written in the URL itself is used, and appears as ``***`` in files and messages.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from harness.errors import SpaceError

MASK = "***"
_NAME = re.compile(r"\$\{(\w+)\}")
# Repetitions are bounded, so that the search takes linear time on long texts without a URL.
_IN_URL = re.compile(r"""([A-Za-z][\w+.-]{0,40}://[^\s:/@]{0,200}:)([^\n@]{0,1000}(?:@[^\s/@'"]*)*)(?=@)""")
_IN_QUERY = re.compile(r"""([?&;]\w*(?:passw(?:or)?d|pwd|secret|token)=)([^&\s'"]+)""", re.IGNORECASE)


def masked(text: str) -> str:
    """``text`` with the password of every URL in it replaced by ``***``."""
    for pattern in (_IN_URL, _IN_QUERY):
        text = pattern.sub(lambda match: match[1] + (match[2] if _NAME.fullmatch(match[2]) else MASK), text)
    return text


def expanded(url: str) -> str:
    """``url`` with every ``${NAME}`` replaced by the environment variable's value. Values are percent-encoded, except
    one that is the whole URL.

    Raises:
        SpaceError: a variable is not set, or the URL has the mask ``***`` instead of a password.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            rule = "must name an environment variable that is set"
            raise SpaceError("search.storage", rule, f"${{{name}}}", f"Set it: export {name}=...")
        return os.environ[name] if match[0] == url else quote(os.environ[name], safe="")

    if f":{MASK}@" in url or f"={MASK}" in url:
        remedy = "Give the URL again, with ${NAME} for the password: it is read from the environment."
        raise SpaceError("search.storage", "holds no password: the study's files keep none", url, remedy)
    return _NAME.sub(value, url)
