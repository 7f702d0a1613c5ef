"""What `nox -s e2e` tells in the step's summary, from plain data."""

from harness.commands.e2e import Held, held_blocks
from harness.pipeline.checks import Check


def test_what_holds_is_told() -> None:
    held = Held({"raw.events": 20000, "dim.dim_date": 105}, [Check("sum of lead fees", 1.5, 1.5, True)])
    held.say("each task ran in a pod of its own")
    assert held_blocks(held) == [
        "| table | rows |\n| --- | ---: |\n| raw.events | 20,000 |\n| dim.dim_date | 105 |",
        "<details><summary>1 numbers are what the events file says</summary>\n\n"
        "| number | value |\n| --- | --- |\n| sum of lead fees | 1.5 |\n\n</details>",
        "- each task ran in a pod of its own",
    ]


def test_a_run_that_came_to_nothing_tells_of_nothing_that_holds() -> None:
    assert held_blocks(Held()) == ["", "", ""]
