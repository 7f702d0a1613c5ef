"""Which target is chosen, and the reason that is given."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from harness import targets
from harness.docker import engine, images
from harness.errors import EngineMissingError, TooSmallError, UsageError
from harness.kubernetes import chart
from harness.project import tools
from harness.warehouse.container import engine_answers
from tests.servers import serving


@pytest.fixture
def all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an engine with every image, the tools and the chart."""
    monkeypatch.setattr(engine, "check_size", lambda: None)
    monkeypatch.setattr(engine, "has_image", lambda _: True)
    monkeypatch.setattr(engine, "is_pullable", lambda _: False)
    monkeypatch.setattr(tools, "is_available", lambda _: True)
    monkeypatch.setattr(chart, "is_available", lambda: True)


@pytest.mark.usefixtures("all_is_there")
def test_auto_is_kind_where_it_can_be_had() -> None:
    target, reason = targets.choose("auto")
    assert target.name == "kind"
    assert reason.startswith("auto chose it: a Docker engine answers")


def raising(error: Exception) -> None:
    raise error


@pytest.mark.usefixtures("all_is_there")
@pytest.mark.parametrize(
    ("module", "function", "replacement", "reason"),
    [
        (engine, "check_size", lambda: raising(EngineMissingError("No.", "", "")), "no Docker engine answers"),
        (engine, "check_size", lambda: raising(TooSmallError("It is small.", "", "")), "it does not fit: It is small"),
        (tools, "is_available", lambda name: name != "helm", "helm is not installed and cannot be fetched"),
        (
            engine,
            "has_image",
            lambda name: "node" not in name,
            "the image kindest/node:1 is not in the engine and cannot be pulled",
        ),
        (chart, "is_available", lambda: False, "the chart cannot be had from /no/chart.tgz"),
    ],
)
def test_auto_is_embedded_elsewhere_and_says_why(
    monkeypatch: pytest.MonkeyPatch, module: object, function: str, replacement: object, reason: str
) -> None:
    monkeypatch.setenv("PLATFORM_NODE_IMAGE", "kindest/node:1@sha256:0")
    monkeypatch.setenv("PLATFORM_CHART", "/no/chart.tgz")
    monkeypatch.setattr(module, function, replacement)
    target, told = targets.choose("auto")
    assert target.name == "embedded"
    assert told == f"auto chose it, because {reason}"


@pytest.fixture(params=["unix:///nowhere", "unix:///dev/null", "tcp://127.0.0.1:1", "501"])
def no_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give an address where there is no engine, or none for this user."""
    with serving(BaseHTTPRequestHandler) as address:  # which answers 501, whatever it is asked
        host = f"tcp://{address}" if request.param == "501" else request.param
        monkeypatch.setenv("DOCKER_HOST", host)
        yield host


@pytest.mark.needs("docker")
def test_an_engine_that_refuses_is_none(no_engine: str) -> None:
    assert not engine_answers()
    target, told = targets.choose("auto")
    assert (target.name, told) == ("embedded", "auto chose it, because no Docker engine answers")
    with pytest.raises(EngineMissingError) as caught:
        engine.inspect("container", "any")
    assert caught.value.what == f"The cluster needs a Docker engine, and none answers at {no_engine}."
    assert caught.value.why == "It is most likely not running, or you have no permission to use it."


def test_bases_are_needed_for_images_that_are_not_built_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    built = {images.dbt().reference}
    monkeypatch.setattr(engine, "has_image", lambda name: name in built)
    assert images.needed_bases() == ["airflow"]


@pytest.mark.parametrize("name", ["embedded", "kind", "minikube", "context"])
def test_a_target_that_is_named_is_taken(name: str) -> None:
    target, reason = targets.choose(name)
    assert (target.name, reason) == (name, "as you asked")


def test_a_target_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no target 'mainframe'"):
        targets.choose("mainframe")
