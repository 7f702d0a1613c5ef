"""The base of a comparison: which commit it is, what is said if there is none, and its files."""

import hashlib
import os
import shlex
import shutil
import subprocess
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.diff.base import Base, checked_out, differing_files, find_base, python_of_base, uncommitted
from harness.errors import BaseFailedError, BaseUnusableError, HarnessError, HistoryMissingError
from harness.project import environments, locks

pytestmark = pytest.mark.needs("git")

AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
PROJECT = "dbt/dbt_project.yml"


@pytest.fixture(autouse=True, scope="module")
def _no_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GIT")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


def git(folder: Path, *arguments: str) -> str:
    argv = ["git", *AUTHOR, "-C", str(folder), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, name: str, text: str = "", message: str = "") -> str:
    """Write a file, commit all that there is, and return the commit."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or name)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message or name)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a repository, `remote`, and its clone on `feature`, `root`.

    `main` has a project and a later commit, and `feature` left it before that one.
    """
    folder = tmp_path_factory.mktemp("repositories")
    remote = folder / "remote"
    git(folder, "init", "--quiet", "--template=", "--initial-branch=main", "remote")
    commit(remote, PROJECT, "name: old")
    git(remote, "tag", "--annotate", "v1", "--message", "one")
    git(remote, "branch", "feature")
    commit(remote, "later")
    git(remote, "checkout", "--quiet", "feature")
    commit(remote, "of the branch")
    git(remote, "checkout", "--quiet", "main")
    git(folder, "clone", "--quiet", "--template=", "--branch", "feature", "remote", "root")
    git(folder / "root", "remote", "set-url", "origin", "../remote")  # so that a copy of both is complete
    return folder


@pytest.fixture
def remote(repositories: Path, tmp_path: Path) -> Path:
    """Give a copy of the repository."""
    return shutil.copytree(repositories / "remote", tmp_path / "remote")


@pytest.fixture
def root(repositories: Path, remote: Path) -> Path:
    """Give a copy of its clone, beside it."""
    return shutil.copytree(repositories / "root", remote.with_name("root"))


def lines(error: pytest.ExceptionInfo[HarnessError]) -> list[str]:
    return [error.value.what, error.value.why, error.value.next_step]


def test_by_default_it_is_where_the_branch_left_the_remotes_default_branch(root: Path) -> None:
    forked = git(root, "rev-parse", "v1^{commit}")
    assert find_base(None, root) == Base("the merge base with origin/main", forked)
    assert str(find_base(None, root)) == f"the merge base with origin/main ({forked[:8]})"


@pytest.mark.parametrize("default", ["trunk", "main", "master"])
def test_the_default_branch_is_the_one_that_the_remote_names_or_has_a_usual_name(
    remote: Path, root: Path, default: str
) -> None:
    git(remote, "branch", "--move", "main", default)
    git(root, "fetch", "--quiet", "--prune", "origin")  # origin/HEAD names a branch that is gone
    if default == "trunk":
        with pytest.raises(BaseUnusableError) as caught:
            find_base(None, root)
        assert lines(caught) == [
            "It is not known which branch this one is compared with.",
            "There is no default branch of a remote `origin`, and none of: origin/main, origin/master, main, master.",
            "Name a commit or a branch: nox -s diff -- --base REF",
        ]
        git(root, "remote", "set-head", "origin", "--auto")
    assert find_base(None, root).name == f"the merge base with origin/{default}"


def test_without_a_remote_it_is_the_local_main(remote: Path) -> None:
    git(remote, "checkout", "--quiet", "feature")
    assert find_base(None, remote) == Base("the merge base with main", git(remote, "rev-parse", "v1^{commit}"))
    git(remote, "checkout", "--quiet", "main")
    assert find_base(None, remote).commit == git(remote, "rev-parse", "HEAD")  # what is not committed is compared


def test_on_a_pull_request_it_is_the_branch_to_merge_into(
    remote: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(remote, "checkout", "--quiet", "feature")
    git(remote, "checkout", "--quiet", "-b", "release")
    released = commit(remote, "released")
    git(root, "fetch", "--quiet", "origin")
    git(root, "checkout", "--quiet", "-b", "fix", "origin/release")
    commit(root, "fix")
    monkeypatch.setenv("GITHUB_BASE_REF", "release")
    assert find_base(None, root) == Base("the merge base with origin/release", released)
    monkeypatch.setenv("GITHUB_BASE_REF", "gone")
    with pytest.raises(BaseUnusableError, match=r"^There is no commit 'origin/gone' in this clone\."):
        find_base(None, root)


@pytest.mark.parametrize("ref", ["v1", "feature~1", "origin/feature~1", "{commit}", "{short}", "HEAD^"])
def test_a_base_by_name(root: Path, ref: str) -> None:
    forked = git(root, "rev-parse", "v1^{commit}")
    ref = ref.format(commit=forked, short=forked[:8])
    assert find_base(ref, root) == Base(ref, forked)


@pytest.mark.parametrize("ref", ["nowhere", "v1:dbt", "HEAD~99", "--help", "a b", "f" * 40])
def test_no_such_commit(root: Path, ref: str) -> None:
    with pytest.raises(BaseUnusableError) as caught:
        find_base(ref, root)
    assert lines(caught) == [
        f"There is no commit {ref!r} in this clone.",
        "It is misspelt, or it was not fetched yet.",
        "Fetch what the remote has, and try again: git fetch --tags origin '+refs/heads/*:refs/remotes/origin/*'",
    ]
    assert caught.value.exit_code == 70


@pytest.mark.parametrize("ref", [None, "v1", "origin/feature~1", "origin/main~1"])
def test_a_shallow_clone_says_how_to_fetch_the_rest_and_then_it_is_found(
    remote: Path, tmp_path: Path, ref: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", "--branch", "feature", f"file://{remote}", "shallow")
    shallow = tmp_path / "shallow"
    monkeypatch.setenv("GITHUB_BASE_REF", "main")
    with pytest.raises(BaseUnusableError) as caught:
        find_base(ref, shallow)
    what, why, next_step = lines(caught)
    assert what == f"There is no commit '{ref or 'origin/main'}' in this clone."
    assert why == "This clone is shallow: it has only the latest commits."
    hint, _, command = next_step.partition(": ")
    assert hint == "Fetch the others, and try again"
    assert command.startswith("git fetch --unshallow ")
    subprocess.run([*shlex.split(command), "--quiet"], cwd=shallow, check=True)
    assert find_base(ref, shallow).commit == git(remote, "rev-parse", "v1^{commit}")


def test_a_clone_that_lacks_only_the_merge_base(remote: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", "--no-single-branch", f"file://{remote}", "shallow")
    git(tmp_path / "shallow", "checkout", "--quiet", "feature")
    with pytest.raises(BaseUnusableError) as caught:
        find_base(None, tmp_path / "shallow")
    assert lines(caught)[:2] == [
        "origin/main and this branch have no commit in common.",
        "This clone is shallow: it has only the latest commits.",
    ]


def test_histories_that_began_apart(root: Path) -> None:
    git(root, "checkout", "--quiet", "--orphan", "other")
    commit(root, "other")
    with pytest.raises(BaseUnusableError) as caught:
        find_base(None, root)
    assert lines(caught) == [
        "origin/main and this branch have no commit in common.",
        "Their histories began apart, so this branch did not leave that one.",
        "Compare with its present state: nox -s diff -- --base origin/main",
    ]
    assert find_base("origin/main", root).commit == git(root, "rev-parse", "origin/main")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda _: None, "git says: not a git repository (or any of the parent directories): .git"),
        (lambda folder: git(folder, "init", "--quiet"), "git says: Needed a single revision"),
    ],
)
def test_no_history(
    tmp_path: Path, prepare: Callable[[Path], object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    prepare(tmp_path)
    with pytest.raises(HistoryMissingError) as caught:
        find_base(None, tmp_path)
    assert lines(caught) == [
        "This folder has no history to compare with.",
        why,
        "Clone the repository with git, or commit once: git init && git add . && git commit",
    ]
    assert caught.value.exit_code == 65


def test_no_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(HistoryMissingError) as caught:
        find_base(None, root)
    assert lines(caught) == [
        "git is not installed, and the base is a commit.",
        "There is no program `git` on the PATH.",
        "Install it, and try again: apt-get install git",
    ]


def test_a_base_without_a_dbt_project(root: Path) -> None:
    git(root, "rm", "--quiet", "-r", "dbt")
    base = Base("HEAD", commit(root, "README"))
    with pytest.raises(BaseUnusableError) as caught, checked_out(base, root):
        pass
    assert lines(caught) == [
        f"The base, HEAD ({base.commit[:8]}), has no dbt project.",
        "There is no dbt/dbt_project.yml in it: it is most likely from before the project had models.",
        "Name a later commit: nox -s diff -- --base REF",
    ]


def state(root: Path) -> dict[str, bytes]:
    """Return what a comparison may not touch: the files of the clone, its index and its references."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_its_files_are_those_of_the_commit_and_the_clone_stays_as_it_is(root: Path) -> None:
    (root / ".gitattributes").write_text("left-out export-ignore\n")
    (root / "left-out").write_text("kept")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("run.sh")
    base = Base("HEAD", commit(root, "dbt/models/mit Leerzeichen/größe.sql", "select 1"))
    git(root, "config", "core.sparseCheckout", "true")
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "sparse-checkout").write_text("/dbt/\n")
    (root / PROJECT).write_text("name: changed")
    git(root, "add", PROJECT)
    (root / "new").write_text("new")
    (root / "run.sh").unlink()
    os.utime(root / "left-out")  # git would refresh its index
    before = state(root)

    with checked_out(base, root) as found:
        assert uncommitted(root)
        assert (found.name, found.commit) == (base.name, base.commit)
        assert state(found.folder).keys() == {
            *(PROJECT, ".gitattributes", "left-out", "run.sh", "link", "of the branch"),
            "dbt/models/mit Leerzeichen/größe.sql",
        }
        assert (found.folder / PROJECT).read_text() == "name: old"
        assert os.access(found.folder / "run.sh", os.X_OK)
        assert not os.access(found.folder / PROJECT, os.X_OK)
        assert (found.folder / "link").readlink() == Path("run.sh")

    assert not found.folder.parent.exists()
    assert state(root) == before


def test_a_worktree(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "--quiet", str(tmp_path / "tree"), "-b", "beside", "v1")
    tree = tmp_path / "tree"
    commit(tree, "beside")
    (tree / PROJECT).write_text("name: changed")
    base = find_base(None, tree)
    assert base.commit == git(root, "rev-parse", "v1^{commit}")
    with checked_out(base, tree) as found:
        assert (found.folder / PROJECT).read_text() == "name: old"
    assert uncommitted(tree) == [PROJECT]
    assert uncommitted(root) == []


def test_a_submodule_is_an_empty_folder(remote: Path, root: Path) -> None:
    git(root, "submodule", "--quiet", "add", str(remote), "module")
    (root / "module" / "new").touch()
    with checked_out(Base("HEAD", commit(root, "more")), root) as found:
        assert list((found.folder / "module").iterdir()) == []
        assert (found.folder / ".gitmodules").exists()
    assert uncommitted(root) == ["module"]


def test_the_project_may_be_in_a_folder_of_a_repository(root: Path) -> None:
    project = root / "the platform"
    base = Base("HEAD", commit(project, PROJECT, "name: inside"))
    (project / "new").touch()
    (root / "outside").touch()
    with checked_out(base, project) as found:
        assert state(found.folder) == {PROJECT: b"name: inside"}
    assert uncommitted(project) == ["new"]


@pytest.mark.parametrize(("lock", "has_packages"), [("packages: [a]", True), ("packages: [b]", False)])
def test_the_base_has_the_packages_that_are_installed_if_it_asks_for_the_same(
    root: Path, lock: str, *, has_packages: bool
) -> None:
    base = Base("HEAD", commit(root, "dbt/package-lock.yml", "packages: [a]"))
    (root / "dbt" / "dbt_packages" / "a").mkdir(parents=True)
    (root / "dbt" / "dbt_packages" / "a" / "dbt_project.yml").write_text("name: a")
    (root / "dbt" / "package-lock.yml").write_text(lock)
    with checked_out(base, root) as found:
        assert (found.folder / "dbt" / "dbt_packages" / "a" / "dbt_project.yml").exists() == has_packages
        assert differing_files(found.folder, root, "dbt") == ([] if has_packages else ["dbt/package-lock.yml"])
    assert (root / "dbt" / "dbt_packages" / "a" / "dbt_project.yml").exists()


def test_what_is_not_committed(root: Path) -> None:
    for name in ("changed", "deleted", "moved", "moved and noticed", "staged", "with blanks", "größe", 'quo"te'):
        commit(root, name, f"{name}\n" * 9)
    (root / ".gitignore").write_text("ignored\n")
    commit(root, "same")
    assert uncommitted(root) == []

    (root / "changed").write_text("other")
    (root / "deleted").unlink()
    git(root, "mv", "moved", "moved to")
    (root / "moved and noticed").rename(root / "noticed")
    git(root, "add", "--intent-to-add", "noticed")
    (root / "staged").write_text("other")
    git(root, "add", "staged")
    for name in ("with blanks", "größe", 'quo"te', "new/ä b", "ignored"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("other")
    expected = ["changed", "deleted", "größe", "moved to", "new/ä b", "noticed", 'quo"te', "staged", "with blanks"]
    assert sorted(uncommitted(root)) == expected


def test_the_files_that_differ(tmp_path: Path) -> None:
    for side, files in {
        "a": {"x/same": "1", "x/other": "1", "x/gone": "1", "y": "1", "x/__pycache__/m.pyc": "1", "outside": "1"},
        "b": {"x/same": "1", "x/other": "2", "x/new/deep": "1", "y": "2", "x/target/z": "1"},
    }.items():
        for name, text in files.items():
            path = tmp_path / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    found = differing_files(tmp_path / "a", tmp_path / "b", "x", "y", "nowhere")
    assert found == ["x/gone", "x/new/deep", "x/other", "y"]


def wheel(folder: Path) -> tuple[Path, str]:
    """Write a wheel of one module, and return its path and its hash."""
    path = folder / "only_in_base-1.0-py3-none-any.whl"
    info = "only_in_base-1.0.dist-info"
    files = {
        "only_in_base.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: only-in-base\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for name, text in files.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (files | {f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,\n"])}).items():
            archive.writestr(name, text)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """Give a base with the locks of this tree."""
    shutil.copytree(locks.LOCKS, tmp_path / "base" / "requirements")
    return Base("v1", "0" * 40, tmp_path / "base")


def test_with_the_same_lock_it_has_this_trees_environment(base: Base) -> None:
    assert python_of_base(base, "tests") == environments.python_of("tests")


def test_with_another_lock_it_has_an_environment_of_its_own(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")
    path, digest = wheel(tmp_path)
    lock = base.folder / "requirements" / "dbt.txt"
    lock.write_text(f"only-in-base==1.0 --hash=sha256:{digest}\n--find-links {path.parent}\n--no-index\n")
    python = python_of_base(base, "dbt")
    name = f"dbt-{hashlib.sha256(lock.read_bytes()).hexdigest()[:8]}"
    assert python == environments.python_of(name)
    subprocess.run([python, "-c", "import only_in_base, harness"], check=True, cwd="/")
    assert "… installing the dbt (other commit) environment: 1 packages, once\n" in capfd.readouterr().out
    assert python_of_base(base, "dbt") == python
    assert capfd.readouterr().out == ""


def test_a_base_without_a_lock(base: Base) -> None:
    (base.folder / "requirements" / "feeds.txt").unlink()
    with pytest.raises(BaseFailedError) as caught:
        python_of_base(base, "feeds")
    assert lines(caught) == [
        "The base, v1 (00000000), has no lock of feeds: there is no requirements/feeds.txt in it.",
        "It is most likely from before the packages of its parts were locked, and nothing says which it needs.",
        "Compare with a later commit: nox -s diff -- --base REF",
    ]


def test_packages_of_the_base_that_cannot_be_installed(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")
    lock = f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n--no-index\n"
    (base.folder / "requirements" / "dbt.txt").write_text(lock)
    with pytest.raises(BaseFailedError) as caught:
        python_of_base(base, "dbt")
    what, why, next_step = lines(caught)
    assert what.startswith("The packages of the base's lock of dbt cannot be installed: ")
    assert "uv says why above" in what
    assert why == "The base has another lock than this tree, and is built with its own packages."
    assert next_step.endswith("compare with a later commit: nox -s diff -- --base REF")
    assert caught.value.exit_code == 71


def test_a_base_that_is_named_by_its_hash_is_named_once() -> None:
    commit = "0123abcd" + "0" * 32
    assert [str(Base(name, commit)) for name in ("v1", commit, commit[:10])] == [
        "v1 (0123abcd)",
        "0123abcd",
        "0123abcd",
    ]
