"""The reason for which kind's kubelet fails is found in its journal."""

import pytest

from harness.targets.kind import why_kubelet_fails

BEGINS = "Flag --provider-id has been deprecated, This parameter should be set via the config file\n"
# Recorded with the kubelet of kind's node 1.20, and of 1.35 on a host with cgroup v1.
NEGATIVE = "invalid configuration: maxPods (--max-pods) -5 must not be a negative number"
CGROUP_V1 = (
    "failed to validate kubelet configuration, error: kubelet is configured to not run on a host using cgroup v1. "
    "cgroup v1 support is unsupported and will be removed in a future release, path: &TypeMeta{Kind:,APIVersion:,}"
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("F1126 14:54:0%d.180165     167 server.go:215] %s\n", NEGATIVE),
        ('E1126 14:54:0%d.631256    1983 run.go:72] "command failed" err="%s"\n', CGROUP_V1),
    ],
)
def test_the_reason_of_three_failures_in_a_row(line: str, reason: str) -> None:
    failures = [BEGINS + line % (second, reason) for second in range(3)]
    assert why_kubelet_fails("".join(failures)) == reason
    assert why_kubelet_fails("".join(failures[1:])) == ""
    assert why_kubelet_fails("".join([*failures[1:], line % (9, "another reason")])) == ""
    assert why_kubelet_fails(BEGINS) == ""
