"""A secret in a URL is never shown, however badly it was escaped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motia_core.masking import mask_url, mask_urls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://me:secret@host/0", "redis://me:***@host/0"),
        ("rediss://:secret@host/0", "rediss://:***@host/0"),
        ("supabase://token@project", "supabase://***@project"),
        ("supabase://token@project:1/?mail=a@b", "supabase://***@b"),
        ("mongodb://u:p@a:1,b:2/db?replicaSet=rs", "mongodb://u:***@a:1,b:2/db?replicaSet=rs"),
        (
            "supabase://p?service_key=abc&schema=x&authToken=q#f",
            "supabase://p?service_key=***&schema=x&authToken=***#f",
        ),
        ("sqlite:///relative.db", "sqlite:///relative.db"),
        ("REDIS://u:p@h", "REDIS://u:***@h"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_urls_in_a_sentence() -> None:
    text = "cannot reach redis://u:p1@h (nor 'net://u:p2@h/x?token=p3'): refused"
    assert mask_urls(text) == "cannot reach redis://u:***@h (nor 'net://u:***@h/x?token=***'): refused"


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n"), max_size=20))
def test_no_password_comes_through(text: str) -> None:
    assert "S3CRET" not in mask_url(f"redis://user:{text}S3CRET{text}@host:1/0")
    assert "S3CRET" not in mask_url(f"redis://host/0?a=b&api_token=S3CRET{text.replace('&', '').replace(';', '')}")
