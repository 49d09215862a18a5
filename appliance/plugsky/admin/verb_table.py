"""Every verb of Admin, who may call it, and what it is. The only place that says so."""

from dataclasses import dataclass
from typing import Final

from plugsky.core.principal import Role

SESSION: Final = "session"
"""The name beside a call's arguments that says in which session it is made."""


@dataclass(frozen=True)
class Verb:
    """One row of the table: who may call it, and what it costs."""

    name: str
    role: Role
    writes: bool = False
    streams: bool = False
    before_login: bool = False
    """It is for who is not logged in, also where people must be."""


VERBS: Final[dict[str, Verb]] = {
    verb.name: verb
    for verb in (
        Verb("home", Role.VIEWER),
        Verb("watch_home", Role.VIEWER, streams=True),
        Verb("model_list", Role.VIEWER),
        Verb("request_list", Role.VIEWER),
        Verb("request_cancel", Role.OPERATOR, writes=True),
        Verb("key_create", Role.ADMIN, writes=True),
        Verb("key_list", Role.VIEWER),
        Verb("key_rotate", Role.ADMIN, writes=True),
        Verb("key_revoke", Role.ADMIN, writes=True),
        Verb("tenant_list", Role.VIEWER),
        Verb("tenant_set", Role.ADMIN, writes=True),
        Verb("alias_list", Role.VIEWER),
        Verb("alias_set", Role.ADMIN, writes=True),
        Verb("alias_remove", Role.ADMIN, writes=True),
        Verb("usage_report", Role.VIEWER),
        Verb("person_list", Role.VIEWER),
        Verb("person_set", Role.ADMIN, writes=True),
        Verb("person_remove", Role.ADMIN, writes=True),
        Verb("login_begin", Role.VIEWER, writes=True, before_login=True),
        Verb("login_end", Role.VIEWER, before_login=True),
        Verb("login_password", Role.VIEWER, writes=True, before_login=True),
        Verb("login_list", Role.VIEWER),
        Verb("login_add", Role.ADMIN, writes=True),
        Verb("login_role", Role.ADMIN, writes=True),
        Verb("login_reset", Role.ADMIN, writes=True),
        Verb("login_remove", Role.ADMIN, writes=True),
        Verb("audit_search", Role.AUDITOR),
        Verb("audit_verify", Role.AUDITOR),
        Verb("isolation", Role.VIEWER),
    )
}
