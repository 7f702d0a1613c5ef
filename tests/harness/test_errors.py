"""An error is copied with other lines, and is not changed itself."""

from harness.errors import CommandFailedError, HarnessError, InstallFailedError


def test_an_amended_error_is_a_copy_with_other_lines() -> None:
    error = InstallFailedError("what", "why", "next", ["evidence"], is_of_hook=True)
    amended = error.amended(what="other", evidence=["first", *error.evidence])
    assert (str(amended), amended.evidence, amended.is_of_hook) == ("other\nwhy\nnext", ["first", "evidence"], True)
    assert (str(error), error.evidence) == ("what\nwhy\nnext", ["evidence"])
    assert type(amended) is InstallFailedError


def test_an_amended_error_keeps_its_exit_code_and_output() -> None:
    assert HarnessError("what", "why", "next", exit_code=130).amended(why="other").exit_code == 130
    failed = CommandFailedError(["false"], "ended with exit code 1", "output")
    assert failed.amended(next_step="other").output == failed.output
