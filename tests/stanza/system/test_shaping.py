"""Plans for shaped clusters, from what was measured of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from stanza.planner.plan import Plan
from stanza.system import shaping
from systems.clusters.host import FREE, Cost, Host
from systems.clusters.shape import as_measured
from tests import shaped

ON = shaped.shape(4, share=0.25, rate_bits_per_s=1e8)
MEASURED = shaped.measured(ON)
PROBED = replace(FREE, cores=2.0, share=0.2, message=Cost(fixed_s=1e-3, byte_s=0.0))


def planned(host: Host | None) -> tuple[Plan, float | None]:
    job = shaped.job(replace(shaped.DIGITS, scheme="ps"), Path("out"), 4)
    target = as_measured(ON, 1.0, 1e-4, host)
    plan = shaping.plan(job, target, MEASURED.profiles)
    return plan, shaping.simulated_step_s(job, plan, target, MEASURED.profiles)


def test_a_rank_that_is_held_computes_as_slowly_as_it_was_profiled() -> None:
    """The profile was taken by the clock. The host has a fifth of a core's time for it, at the
    speed of a core that is alone, which is five times the profile's."""
    (profile,) = MEASURED.profiles.values()
    target = as_measured(ON, 1.0, 1e-4, PROBED)
    found = shaping.in_core_seconds(profile, target)
    assert found.forward_s == pytest.approx(0.2 * profile.forward_s)
    assert shaping.in_core_seconds(profile, as_measured(ON, 1.0, 1e-4)) == profile
    crowded = replace(PROBED, share=None)  # two cores for four ranks
    found = shaping.in_core_seconds(profile, as_measured(ON, 1.0, 1e-4, crowded))
    assert found.forward_s == pytest.approx(0.5 * profile.forward_s)


def test_what_messages_take_of_a_rank_is_in_the_prediction() -> None:
    """Three workers push and pull: every message takes half a millisecond of either core, and the
    server, which has six of them, gets a fifth of a core."""
    unprobed, _ = planned(None)
    probed, simulated_s = planned(PROBED)
    free, _ = planned(replace(PROBED, message=FREE.message))
    assert unprobed.chosen is not None
    assert probed.chosen is not None
    assert free.chosen is not None
    assert probed.chosen.step_s == simulated_s
    assert probed.host == as_measured(ON, 1.0, 1e-4, PROBED).host
    assert unprobed.host is None
    assert probed.chosen.step_s - free.chosen.step_s > 6 * 0.5e-3
