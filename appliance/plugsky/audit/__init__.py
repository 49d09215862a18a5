"""The site's audit trail: signed hash chains, one per writing process, and the proof that they are whole.

``events`` says what is recorded, ``log`` writes it, ``trail`` reads and searches it, ``verify`` proves it.
"""

from plugsky.audit.events import Event
from plugsky.audit.log import AuditLog
from plugsky.audit.site_key import site_key

__all__ = ["AuditLog", "Event", "site_key"]
