"""Databases' URLs as people may see them. Knows no database."""

from __future__ import annotations

from sqlalchemy import make_url

SECRETS = ("password", "sslpassword")


def without_password(url: str) -> str:
    """The URL as logs may hold it, whichever of the two places that drivers read a password stands in.

    Raises:
        ArgumentError: (SQLAlchemy's) it is none.
    """
    return make_url(url).difference_update_query(SECRETS).render_as_string(hide_password=True)
