"""What a name or an import path stands for, and what is refused in one clear line."""

from typing import Any

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from stanza.exchanges.find import NamedExchange
from stanza.exchanges.gather import Gathered
from stanza.exchanges.names import BUILT_IN, PLAIN, SCHEMES, compression_of, remembers, unpredicted
from stanza.exchanges.of_run import compression_of_run
from stanza.options import Options
from stanza.own_options import own_code
from systems.schema import InputError

OWN = "tests.stanza.exchanges.own:"


@pytest.fixture(scope="module")
def group() -> Any:
    """A group of two ranks, of which this process is one and no other exists."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scheme": "ddp", "exchange": "topk"},
            "--stanza.exchange topk: no exchange of that name; perhaps 'top-k', or one of your own "
            "as module:attribute or path/to/file.py:attribute",
        ),
        (
            {"exchange": "top-k"},
            "--stanza.exchange top-k: --stanza.scheme stanza exchanges gradients in its own way; "
            "give --stanza.scheme ddp or ps, or --stanza.exchange plain",
        ),
        (
            {"scheme": "ps", "exchange": "powersgd"},
            "--stanza.exchange powersgd: is a hook of DDP; give --stanza.scheme ddp",
        ),
        (
            {"scheme": "ddp", "exchange_options": ("density=0.1",)},
            "--stanza.exchange-options density=0.1: the plain exchange takes none; leave them out, "
            "or give another --stanza.exchange",
        ),
        (
            {"scheme": "ddp", "exchange": "top-k", "exchange_options": ("densty=0.1",)},
            "--stanza.exchange-options densty=0.1: top-k takes no densty; perhaps 'density'",
        ),
        (
            {"scheme": "ddp", "exchange": "bf16", "exchange_options": ("block=3",)},
            "--stanza.exchange-options block=3: bf16 takes no block; leave it out",
        ),
        (
            {"scheme": "ddp", "exchange": "top-k", "exchange_options": ("density=2",)},
            "--stanza.exchange-options density=2: give the part of the values to send, such as "
            "0.01",
        ),
        (
            {"scheme": "ddp", "exchange": "powersgd", "exchange_options": ("start=1",)},
            "--stanza.exchange-options start=1: give a whole number from 2 on",
        ),
        (
            {"scheme": "ddp", "exchange": "1-bit", "exchange_options": ("block=0.5",)},
            "--stanza.exchange-options block=0.5: give a whole number from 1 on",
        ),
        (
            {"scheme": "ddp", "ps_consistency": "asynchronous"},
            "--stanza.ps-consistency asynchronous: belongs to parameter servers; give "
            "--stanza.scheme ps",
        ),
        (
            {"scheme": "ps", "ps_consistency": "asynchronous", "ps_placement": "colocated"},
            "--stanza.ps-consistency asynchronous: servers beside workers wait for each other's; "
            "give --stanza.ps-placement dedicated",
        ),
        (
            {"scheme": "ps", "ps_consistency": "stale-synchronous", "exchange": "bf16"},
            "--stanza.ps-consistency stale-synchronous: its servers send parameters as they are; "
            "give --stanza.exchange plain",
        ),
        (
            {"scheme": "ps", "ps_consistency": "asynchronous", "schedule": "m:f"},
            "--stanza.ps-consistency asynchronous: every push would be a step of --stanza.schedule "
            "m:f; give None for it",
        ),
        ({"ps_staleness": -1}, "--stanza.ps-staleness -1: give 0 or more"),
    ],
)
def test_options_are_refused_with_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Options(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_name_can_be_made(name: str, scheme: Any, group: dist.ProcessGroup) -> None:
    exchange = NamedExchange(name)
    if scheme not in BUILT_IN[name].paths:
        with pytest.raises(InputError, match=r"is a hook of DDP"):
            Options(scheme=scheme, exchange=name)
        return
    assert Options(scheme=scheme, exchange=name).exchange == name
    exchange.check(scheme)
    if scheme == "ddp":
        assert callable(exchange.hook(group))
    else:
        assert callable(exchange.codec()().encode)


def test_ones_own_may_be_a_hook_a_codec_or_an_object(group: dist.ProcessGroup) -> None:
    assert not isinstance(NamedExchange(f"{OWN}mean_hook").hook(group), Gathered)
    for name in ("Identity", "OBJECT"):
        assert isinstance(NamedExchange(OWN + name).hook(group), Gathered)
        assert NamedExchange(OWN + name).check("ps") == 1.0
    options = Options(scheme="ps", exchange=f"{OWN}Identity")
    assert own_code(options) == (f"{OWN}Identity",)


@pytest.mark.parametrize(
    ("name", "scheme", "message"),
    [
        ("Nothing", "ddp", "has no attribute Nothing"),
        ("mean_hook", "ps", "is a hook of DDP; give --stanza.scheme ddp, or a codec, with encode"),
        ("NoDecode", "ps", "makes a NoDecode without encode and decode; give those, or a hook"),
        ("Failing", "ddp", "fails: ZeroDivisionError: no values"),
        ("Short", "ddp", "decode returns [1023] for 1024 values; give [1024]"),
    ],
)
def test_what_is_found_is_tried(name: str, scheme: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        NamedExchange(OWN + name).check(scheme)
    assert message in str(error.value)
    assert str(error.value).startswith("--stanza.exchange")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("make_nothing", (), "makes a NoneType; give a function of a bucket"),
        ("make_two", (), "makes a function of 2 arguments; give one of a bucket"),
        ("mean_hook", ("rank=2",), "-options rank=2: a function of a bucket takes none"),
        ("OBJECT", ("rank=2",), "-options rank=2: it is an object; give its class"),
        ("Identity", ("rank=2",), "-options rank=2:"),
    ],
)
def test_hooks_are_refused_with_one_clear_line(
    name: str, arguments: tuple[str, ...], message: str, group: dist.ProcessGroup
) -> None:
    def make() -> None:
        hook = NamedExchange(OWN + name, arguments).hook(group)
        assert isinstance(hook, Gathered)  # whose codecs are made when the first bucket comes
        hook._make()

    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)


def test_what_is_known_before_a_run() -> None:
    assert compression_of(PLAIN, ()) is not None
    for name in ("powersgd", "post-local-sgd", f"{OWN}Identity"):
        assert compression_of(name, ()) is None
        assert unpredicted(name).startswith(f"--stanza.exchange {name}: ")
    assert [name for name in (PLAIN, *BUILT_IN) if not remembers(name)] == ["plain", "fp16", "bf16"]
    assert remembers(f"{OWN}Identity")


def test_what_is_known_in_a_run() -> None:
    shapes, measured = [(10, 20), (10,), (3, 2)], range(3, 11)

    def factor(name: str, *arguments: str) -> float | None:
        found = compression_of_run(NamedExchange(name, arguments), "ddp", shapes, measured)
        return None if found is None else found.factor

    # Of 200 + 10 + 6 values a matrix travels as 10 + 20 values; the others are too small.
    assert factor("powersgd", "rank=1") == (30 + 10 + 6) / 216
    assert factor("powersgd", "rank=4") == 1.0
    # Steps 3 and 4 before the start, then 5 and 9.
    assert factor("post-local-sgd", "period=4", "start=5") == 4 / 8
    assert factor(f"{OWN}Identity") == 1.0
    assert factor(f"{OWN}mean_hook") is None
