"""What `testbed doctor` looks for on behalf of Stanza."""

from stanza.planner.plan import shipped_profiles
from systems.finding import Finding


def checks() -> list[Finding]:
    """The measured profiles that ship."""
    names = ", ".join(shipped_profiles())
    return [Finding(name="measured profiles", works=True, found=names, needed_for="plans")]
