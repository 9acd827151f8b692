"""Keeping secrets out of messages, logs and reprs."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"\A([a-z][a-z0-9+.-]*://)(.*)@", re.IGNORECASE | re.DOTALL)
_SECRET = re.compile(r"([?&#;][^=&#;]*(?:pass|pwd|secret|token|key|auth|cred|sig)[^=&#;]*=)[^&#;]*", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def mask_url(url: str) -> str:
    """``url`` with its password, and query values that look like secrets, shown as ``***``.

    A user name is kept when a password follows it; alone it may be a token, and is masked.
    Errs towards masking: everything before the last ``@`` counts as the user's part, as
    passwords that nobody escaped hold ``/``, ``?`` and ``@``.
    """

    def hide(match: re.Match[str]) -> str:
        user, colon, _ = match.group(2).partition(":")
        return f"{match.group(1)}{user}:***@" if colon and "@" not in user else f"{match.group(1)}***@"

    return _SECRET.sub(r"\1***", _USERINFO.sub(hide, url))


def mask_urls(text: str) -> str:
    """``text`` with `mask_url` applied to every URL in it."""
    return _URL.sub(lambda match: mask_url(match.group()), text)
