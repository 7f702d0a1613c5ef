"""Say what of a URI may be shown, and what identifies a source: the one place that decides either.

Of a URI are shown its scheme, host, port and path, and of its query and fragment the names: `https://host/a?sig=…`.
User info is not. A secret that is not percent-encoded may have any character in it, so whatever may be part of
one is left out; `…` stands there. A plain path is shown as it is.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

_ROUNDS = 100_000  # some 30 ms: a secret in a URI cannot be found by trying what its identity would be
_CLOSING = ")]}>'\"`»”,.;:"  # what stands behind a URI in a sentence
_SCHEME = r"[\w+.-]"
_BEGINNING = re.compile(rf"(?<!{_SCHEME}){_SCHEME}*://|(?<![\w+.:/-])//(?=\S*@)")
# To the next blank; where what is there so far can only be the beginning of user info, to the blank behind the next @.
_IN_TEXT = re.compile(
    rf"({_BEGINNING.pattern})([^\s/?#@]*:(?!\d+[/?#\s])[^\s@]+\s[^@\n]{{0,200}}@\S*|\S*)|(?<!\w)((?i:data:))[\w/+.;=-]*,\S*"
)
_AUTHORITY = re.compile(r"(?:\[[^]]*\]|(?!::)[^/?#])*")
_HOST = r"(?:\[[^]@/]*\]|[^:@%,[\]]*)(?::\d+)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*|[A-Za-z]:")  # several: libpq's; a letter: a drive's
_LINK = re.compile(r"([^@?#]*?)::(?=(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]*://)")  # zip://a.csv::https://…
_LATE_QUERY = re.compile(r"(?:%(?:25)*3f|&)(?=[^=]*=).*", re.IGNORECASE | re.DOTALL)  # no ?, or one that was encoded
_PARAMETER = re.compile(r"(^[?#]|[&#])([^&#]*)")
_NAMED = re.compile(r"([\w.\-[\]]{1,40})=+[^=]")

# Outside a URI:
_QUOTED = r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|['"][^\n]*"""
_HEADER = re.compile(  # not "require authorization: why", which registries say
    r"(?:(?<!\w )|(?=(?-i:[A-Z])))\b"
    r"((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:token|key|signature))(['\"]?\s*:(?!\s*…)\s*)"
    rf"(?:{_QUOTED}|[^\n]+)|\b(bearer|basic)(\s+)(?!(?-i:[a-z]+)(?![\w.~+/=-]))[\w.~+/=-]{{6,}}",
    re.IGNORECASE,
)
_SETTING = re.compile(
    r"(?<![^\s;,({['\"=])("
    r"[\w.-]{0,60}(?:passw(?:or)?d|passphrase|secret|token|credential|signature|(?:access|account|api|private|client|server)[_-]?key)"
    rf"[\w.-]{{0,60}}|pwd|sig|sas)((?:\s*=|['\"]\s*:)(?!\s*…)\s*)(?:{_QUOTED}|(?:\\.|\S)+)",
    re.IGNORECASE,
)
_MISREAD = re.compile(  # what reads a URI or a DSN quotes the part that it does not understand
    r"((?:percent-encoded (?:token|value):|integer value(?: as)?|query parameter:|missing \"=\" after|"
    r"unexpected spaces found in|invalid connection option|(?:invalid|nonnumeric) port:) )"
    r"(?:'[^\n]*'|\"[^\n]*\")|(host (?:name )?['\"])[^'\"\n]*@",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<![^\s'\"(\[<=,])[^\s/\\:@'\"(=]{2,100}:\S{1,200}@(?=[\w[]|$)")
_QUERY = re.compile(r"(?<=[\w/.])[?#][\w.\-[\]]{1,40}=\S*")

# A login, which says nothing of the file; what abfs:// and others have before an @ is a part of its name.
_LOGIN = re.compile(
    r"((?:^|::)(?:https?|ftps?|sftp|ssh|smb|(?:web)?hdfs|s3a?)://)"
    r"(?:[^/?#]*@|(?:(?<=s3://)|(?<=s3a://))[^/?#:@]+:(?!:|\d+[/?#])[^?#]*@)",
    re.IGNORECASE,
)
_DSN_USER = re.compile(r"^(postgres(?:ql)?://)[^/?#:@]+(?=[:@])")  # a message says who may not log in
_DELIMITERS = re.compile(r"[/:@?#&=\s]+")
_ANYWHERE, _SHORTEST = 6, 3  # a part of a secret is found within a word if it is so long; a short one may be any word's


def shown(uri: str) -> str:
    """Return what of URI may be shown, in a log, a message or a table; a plain path as it is."""
    if uri.lower().startswith("data:"):
        return "data:…"
    if beginning := _BEGINNING.search(uri):
        return _plain(uri[: beginning.start()]) + beginning[0] + _shown(uri[beginning.end() :])
    return _plain(_SETTING.sub(r"\1\2…", uri))


def without_secrets(text: str, *about: str) -> str:
    """Return TEXT, a message of anybody's, with every URI in it as `shown` has it, and without passwords and tokens.

    Nothing that `shown` hides of the URIs ABOUT stays, however the message has it: a part of it, encoded once more.
    """
    for uri in about:
        text = text.replace(uri, shown(uri)) if uri else text
    if hidden := {part for uri in about for part in _hidden(uri)}:
        longest_first = sorted(hidden, key=len, reverse=True)
        words = [re.escape(part) if len(part) >= _ANYWHERE else rf"\b{re.escape(part)}\b" for part in longest_first]
        text = re.sub("|".join(words), "…", text, flags=re.IGNORECASE)
    text = _HEADER.sub(r"\1\2\3\4…", text)
    text = _MISREAD.sub(lambda found: f"{found[1]}'…'" if found[1] else found[2], text)
    text = _SETTING.sub(r"\1\2…", text)
    told, position = [], 0
    for found in _IN_TEXT.finditer(text):
        told.append(_plain(text[position : found.start()]))
        if found[3]:
            told.append("data:…")
        else:
            uri = found[2].rstrip(_CLOSING)
            told += found[1], _shown(uri), found[2][len(uri) :]
        position = found.end()
    return "".join([*told, _plain(text[position:])])


@contextmanager
def clean_logs(*about: str) -> Iterator[None]:
    """Keep secrets out of what is logged meanwhile, by libraries too; ABOUT is as for `without_secrets`."""

    def clean(record: logging.LogRecord) -> bool:
        with suppress(TypeError, ValueError):  # its arguments do not fit its text, which logging says itself
            record.msg, record.args = without_secrets(record.getMessage(), *about), None
        return True

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(clean)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(clean)


def source_id(uri: str) -> str:
    """Return what identifies the source at URI: 32 hexadecimal digits that say nothing about it.

    Another path, query or fragment is another source; another login is not.
    """
    end = min((position for mark in "?#" if (position := uri.find(mark)) >= 0), default=len(uri))
    identity = _LOGIN.sub(r"\1", uri[:end]) + uri[end:]
    rounds = 1 if shown(identity) == identity else _ROUNDS  # what is shown anyway need not be guessed
    return hashlib.pbkdf2_hmac("sha256", identity.encode(errors="surrogatepass"), b"source of events", rounds, 16).hex()


def _shown(rest: str) -> str:
    """Return what may be shown of REST, a URI without its scheme; of a chain of URIs, of each."""
    links = ""
    while (link := _LINK.match(rest)) and _has_host(link[1]):
        beginning = _BEGINNING.search(rest, link.end())
        assert beginning  # a link ends where another begins
        links += rest[: beginning.end()]
        rest = rest[beginning.end() :]
    end = min((position for mark in "?#" if (position := rest.find(mark)) >= 0), default=len(rest))
    at, authority = rest.rfind("@"), _authority(rest)
    doubt = ""
    if "@" in authority or ":" in rest[: max(0, min(at, end))]:
        if at > end:  # user info with a ? in it, or a query with an @
            return f"{links}…"
        doubt = "" if at < len(authority) else "…/"  # user info with a / in it, or a path with an @
        rest, end = rest[at + 1 :], end - at - 1
    if not _has_host(rest):
        return f"{links}…"
    path = _LATE_QUERY.sub("…", _SETTING.sub(r"\1\2…", rest[:end]))
    return links + doubt + path + _names(rest[end:])


def _hidden(uri: str) -> set[str]:
    """Return the parts of URI that `shown` hides, as they are, decoded and encoded; of a DSN not the user."""
    seen = shown(uri).lower()
    parts = {
        part
        for part in _DELIMITERS.split(_DSN_USER.sub(r"\1", uri))
        if len(part) >= _SHORTEST and part.lower() not in seen
    }
    return {form for part in parts for form in (part, unquote(part), quote(part, safe="", errors="surrogateescape"))}


def _authority(rest: str) -> str:
    found = _AUTHORITY.match(rest)
    return found[0] if found else ""


def _has_host(rest: str) -> bool:
    """Say whether REST begins with a host, perhaps a port, and not with user info that nothing ends."""
    return _HOSTS.fullmatch(_authority(rest)) is not None


def _names(parameters: str) -> str:
    """Return a query and a fragment with names alone; what has no name may be a secret itself."""

    def shown_parameter(found: re.Match[str]) -> str:
        named = _NAMED.match(found[2])
        return found[1] + (f"{named[1]}=…" if named else "…" if found[2] else "")

    return _PARAMETER.sub(shown_parameter, parameters)


def _plain(text: str) -> str:
    """Return TEXT, in which no scheme is, without what looks like user info or a query all the same."""
    return _QUERY.sub(lambda found: _names(found[0].rstrip(_CLOSING)), _USER_INFO.sub("…/", text))
