"""Monthly token budgets. Pure: which month a moment belongs to, and whether a reservation fits.

The budget of a tenant is prompt plus completion tokens in one UTC month. What is reserved counts as used, so that many
requests at once cannot overdraw it together. A request belongs to the month in which it was reserved.
"""

from datetime import UTC, datetime

from plugsky.core.clock import rfc3339
from plugsky.core.errors import ErrorKind, PlugskyError


def month_of(moment: datetime) -> str:
    """``2026-11``, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m")


def next_month(moment: datetime) -> datetime:
    """When the month after ``moment``'s begins, UTC."""
    utc = moment.astimezone(UTC)
    return datetime(utc.year + utc.month // 12, utc.month % 12 + 1, 1, tzinfo=UTC)


def fits(budget: int, used: int, reserved: int, tokens: int) -> bool:
    """Whether ``tokens`` more stay within the budget."""
    return used + reserved + tokens <= budget


def exhausted(tenant: str, budget: int, used: int, reserved: int, tokens: int, now: datetime) -> PlugskyError:
    """The refusal, with every number a person needs to understand it."""
    return PlugskyError(
        ErrorKind.QUOTA_EXHAUSTED,
        f"the token budget of tenant {tenant} does not hold this request",
        why=f"{tokens} tokens asked, {used} used and {reserved} reserved of {budget} this month; "
        f"it begins anew at {rfc3339(next_month(now))}",
        next="ask the site's administrator for a larger budget, or wait until it begins anew",
    )
