"""A command returns its output, or raises an error that explains why it failed."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import CommandFailedError, cause_line
from harness.processes.command import run

PYTHON = (sys.executable, "-c")


def test_standard_output_is_returned() -> None:
    program = "import os, sys; print(os.environ['ONE'], sys.stdin.read()); print('aside', file=sys.stderr)"
    assert run(*PYTHON, program, env={"ONE": "1"}, stdin="two") == "1 two\n"
    assert run(*PYTHON, program, env={"ONE": "1"}) == "1 \n"  # its standard input is not the terminal
    assert run("printenv", "PATH") == os.environ["PATH"] + "\n"


def test_both_streams_are_returned_in_order() -> None:
    program = "import sys; [print(n, file=f, flush=True) for n, f in enumerate([sys.stderr, sys.stdout, sys.stderr])]"
    assert run(*PYTHON, program, both_streams=True) == "0\n1\n2\n"


def test_output_that_is_not_utf8_is_replaced() -> None:
    assert run(*PYTHON, r"import sys; sys.stdout.buffer.write(b'\xff.')") == "\ufffd."


def test_a_failure_names_the_last_line_of_both_streams() -> None:
    program = "import sys; print('out'); print('first\\nlast\\n', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandFailedError) as caught:
        run(*PYTHON, program)
    assert caught.value.what == f"`{sys.executable} -c {program}` ended with exit code 3."
    assert caught.value.why == "Its output says: last"
    assert caught.value.output == "out\nfirst\nlast\n\n"
    assert caught.value.exit_code == 51


def test_a_failure_contains_no_secrets() -> None:
    with pytest.raises(CommandFailedError) as caught:
        run(*PYTHON, "import sys; sys.exit('no https://u:SECRET@host/a?sig=SECRET: denied')", "https://u:SECRET@host/a")
    assert "SECRET" not in str(caught.value)
    assert caught.value.why == "Its output says: no https://host/a?sig=…: denied"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "docker: Error response from daemon: Bind for 127.0.0.1:80 failed: port is already allocated\n"
            "\nRun 'docker run --help' for more information\n",
            "docker: Error response from daemon: Bind for 127.0.0.1:80 failed: port is already allocated",
        ),
        (
            "error: no such node\nTo see the stack trace of this error execute with --v=5 or higher\n",
            "error: no such node",
        ),
        ("Error: a\nError: b\nbye\n", "Error: b"),
        ("one\ntwo\n", "two"),
        ("Usage: docker run\n", ""),
        (  # kind, where the node's kubeadm is older than a field of cluster/kind.yaml
            'ERROR: failed to create cluster: command "docker exec" failed with error: exit status 143\n'
            'Command Output: I1126 15:03:43.258906     115 initconfiguration.go:201] from "/kind/kubeadm.conf"\n'
            'W1126 15:03:43.263122     115 strict.go:54] error unmarshaling JSON: json: unknown field "failCgroupV1"\n'
            "I1126 15:03:43.998530     115 round_trippers.go:445] GET https://node:6443/healthz  in 0 milliseconds\n",
            'ERROR: failed to create cluster: command "docker exec" failed with error: exit status 143',
        ),
    ],
)
def test_the_line_that_names_the_cause_is_not_a_hint_or_a_warning(output: str, line: str) -> None:
    assert cause_line(output) == line


def test_a_long_command_is_shortened_and_empty_output_is_mentioned() -> None:
    with pytest.raises(CommandFailedError) as caught:
        run("sh", "-c", "exit 1", "3", "4", "5", "6")
    assert caught.value.what == "`sh -c exit 1 3 4 5 …` ended with exit code 1."
    assert caught.value.why == "It printed nothing."


def test_a_program_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    program = (
        f"import os, sys, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
        "print('waiting', file=sys.stderr, flush=True); time.sleep(600)"
    )
    begun = time.monotonic()
    with pytest.raises(CommandFailedError, match=r"did not end within 1 s\.") as caught:
        run(*PYTHON, program, timeout_s=1)
    assert time.monotonic() - begun < 30
    assert caught.value.why == "Its output says: waiting"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(CommandFailedError, match="`no-such-program --version` could not be started") as caught:
        run("no-such-program", "--version")
    assert "No such file or directory" in caught.value.why


def test_the_signal_that_ended_a_program_is_named() -> None:
    with pytest.raises(CommandFailedError, match=r"` was ended by SIGKILL\.\n"):
        run(*PYTHON, "import os; os.kill(os.getpid(), 9)")
