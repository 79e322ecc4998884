from dataclasses import replace

from systems.processes.host import HostReading, HostUse, host_use
from systems.runs.shaped import Conditions, Shaped, busy_words, doubts
from tests import shaped

ON = shaped.shape(3, share=0.5)
KNOWN = Shaped(
    shape=ON, held="held", measured=replace(shaped.measured(ON), speeds_per_s=(100.0,) * 3)
)
QUIET = Conditions(
    before_per_s=(101.0, 99.0, 100.0),
    after_per_s=(100.0, 98.0, 104.0),
    throttled=(0.5, 0.4, None),
    host=HostUse(others_cores=0.1, stolen_cores=0.01, cores=2),
)


def test_a_quiet_machine_is_not_doubted() -> None:
    assert doubts(KNOWN, QUIET) == []
    assert doubts(KNOWN, replace(QUIET, host=None)) == []
    assert busy_words({"host_busy": []}) == busy_words({}) == ""


def test_what_disturbs_a_run_is_said() -> None:
    assert doubts(KNOWN, replace(QUIET, after_per_s=(101.0, 80.0, 100.0))) == [
        "rank 1 was 0.81 times as fast after the run as before it"
    ]
    faster = replace(QUIET, before_per_s=(150.0,) * 3, after_per_s=(150.0,) * 3)
    assert doubts(KNOWN, faster) == [
        "rank 0 was 1.50 times as fast before the run as when it was profiled"
    ]
    host = HostUse(others_cores=0.7, stolen_cores=0.25, cores=2)
    found = doubts(KNOWN, replace(QUIET, host=host))  # the ranks need 1.5 of 2 cores
    assert found == [
        "the machine below gave 0.25 of 2 cores to others",
        "other processes kept 0.70 of 2 cores busy, and the ranks need 1.5",
    ]
    assert busy_words({"host_busy": found}).startswith("; doubtful, the machine was busy: the mach")


def test_what_others_did_is_what_is_left() -> None:
    start, end = HostReading(10.0, 100.0, 5.0), HostReading(20.0, 115.0, 6.0)
    use = host_use(start, end, own_s=12.0)
    assert (use.others_cores, use.stolen_cores) == (0.3, 0.1)
