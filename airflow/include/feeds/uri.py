"""Hide the secrets of URIs and messages, and identify a source: the only module that decides either.

Of a URI the scheme, host, port and path are shown, and the names in its query and fragment: `https://host/a?sig=…`.
User info is hidden. A secret that is not percent-encoded may contain any character, so everything that may be part of
one is replaced by `…`. A plain path is shown unchanged.

`urllib.parse` does not help: it drops tabs and line ends, refuses some brackets, and ends user info at a `/`, `?` or
`#` that is part of a password.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

_ROUNDS = 100_000  # some 30 ms: too slow to find a URI's secret by hashing guesses
_CLOSING = ")]}>'\"`»”,.;:"  # may follow a URI in a sentence
_SCHEME = r"[\w+.-]"
_BEGINNING = re.compile(rf"(?<!{_SCHEME}){_SCHEME}*://|(?<![\w+.:/-])//(?=\S*@)")
# Up to the next blank, or, after what can only be the beginning of user info, up to the blank after the next @.
_IN_TEXT = re.compile(
    rf"({_BEGINNING.pattern})([^\s/?#@]*:(?!\d+[/?#\s])[^\s@]+\s[^@\n]{{0,200}}@\S*|\S*)|(?<!\w)((?i:data:))[\w/+.;=-]*,\S*"
)
_AUTHORITY = re.compile(r"(?:\[[^]]*\]|(?!::)[^/?#])*")
_HOST = r"(?:\[[^]@/]*\]|[^:@%,[\]]*)(?::\d+)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*|[A-Za-z]:")  # several: libpq's; a letter: a drive's
_LINK = re.compile(r"([^@?#]*?)::(?=(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]*://)")  # zip://a.csv::https://…
_LATE_QUERY = re.compile(r"(?:%(?:25)*3f|&)(?=[^=]*=).*", re.IGNORECASE | re.DOTALL)  # with no or an encoded ?
_NAME = r"[\w.\-[\]]{1,40}="
_PARAMETER = re.compile(rf"(^[?#]|[&#])(?:({_NAME})=*[^=&#][^&#]*|[^&#]+)")  # without a name all may be a secret

# Outside a URI:
_QUOTED = r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|['"][^\n]*"""
_HEADER = re.compile(  # not "require authorization: why", a message of registries
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
_MISREAD = re.compile(  # parsers of URIs and DSNs quote the part that they do not understand
    r"((?:percent-encoded (?:token|value):|integer value(?: as)?|query parameter:|missing \"=\" after|"
    r"unexpected spaces found in|invalid connection option|(?:invalid|nonnumeric) port:) )"
    r"(?:'[^\n]*'|\"[^\n]*\")|(host (?:name )?['\"])[^'\"\n]*@",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<![^\s'\"(\[<=,])[^\s/\\:@'\"(=]{2,100}:\S{1,200}@(?=[\w[]|$)")
_QUERY = re.compile(rf"(?<=[\w/.])[?#]{_NAME}\S*")

# A login does not identify the file; in abfs:// and others the part before an @ belongs to the file's name.
_LOGIN = re.compile(
    r"((?:^|::)(?:https?|ftps?|sftp|ssh|smb|(?:web)?hdfs|s3a?)://)"
    r"(?:[^/?#]*@|(?:(?<=s3://)|(?<=s3a://))[^/?#:@]+:(?!:|\d+[/?#])[^?#]*@)",
    re.IGNORECASE,
)
_DSN_USER = re.compile(r"^(postgres(?:ql)?://)[^/?#:@]+(?=[:@])")  # messages name the user who may not log in
_DELIMITERS = re.compile(r"[/:@?#&=\s]+")
_ANYWHERE, _SHORTEST = 6, 3  # characters: a long part of a secret is replaced within words, a short one as a word only


def shown(uri: str) -> str:
    """Return URI without its secrets, for logs, messages and tables; a plain path unchanged."""
    if uri.lower().startswith("data:"):
        return "data:…"
    if beginning := _BEGINNING.search(uri):
        return _plain(uri[: beginning.start()]) + beginning[0] + _shown(uri[beginning.end() :])
    return _plain(_SETTING.sub(r"\1\2…", uri))


def without_secrets(text: str, *uris: str) -> str:
    """Return TEXT, a message from any program, without passwords and tokens, and with every URI as `shown` returns it.

    Everything that `shown` hides of URIS (DSNs too) is removed, also a part of it, decoded or encoded once more.
    """
    for uri in uris:
        text = text.replace(uri, shown(uri)) if uri else text
    if hidden := {part for uri in uris for part in _hidden(uri)}:
        longest_first = sorted(hidden, key=len, reverse=True)
        words = [re.escape(part) if len(part) >= _ANYWHERE else rf"\b{re.escape(part)}\b" for part in longest_first]
        text = re.sub("|".join(words), "…", text, flags=re.IGNORECASE)
    text = _HEADER.sub(r"\1\2\3\4…", text)
    text = _MISREAD.sub(lambda found: f"{found[1]}'…'" if found[1] else found[2], text)
    text = _SETTING.sub(r"\1\2…", text)
    cleaned, position = [], 0
    for found in _IN_TEXT.finditer(text):
        cleaned.append(_plain(text[position : found.start()]))
        if found[3]:
            cleaned.append("data:…")
        else:
            uri = found[2].rstrip(_CLOSING)
            cleaned += found[1], _shown(uri), found[2][len(uri) :]
        position = found.end()
    return "".join([*cleaned, _plain(text[position:])])


def first_line(error: BaseException, *uris: str) -> str:
    """Return the first line of ERROR's message, without secrets; URIS as in `without_secrets`."""
    return without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0], *uris)


@contextmanager
def clean_logs(*uris: str) -> Iterator[None]:
    """Remove secrets from all log records in the meantime, those of libraries too; URIS as in `without_secrets`."""

    def clean(record: logging.LogRecord) -> bool:
        with suppress(TypeError, ValueError):  # the arguments do not match the text, which logging itself reports
            record.msg, record.args = without_secrets(record.getMessage(), *uris), None
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
    """Return the identity of the source at URI: 32 hexadecimal digits that reveal nothing about it.

    A different path, query or fragment is a different source; a different login is not.
    """
    end = min((position for mark in "?#" if (position := uri.find(mark)) >= 0), default=len(uri))
    identity = _LOGIN.sub(r"\1", uri[:end]) + uri[end:]
    rounds = 1 if shown(identity) == identity else _ROUNDS  # a URI without secrets needs no protection
    return hashlib.pbkdf2_hmac("sha256", identity.encode(errors="surrogatepass"), b"source of events", rounds, 16).hex()


def _shown(rest: str) -> str:
    """Return REST, a URI after its scheme, without its secrets; it may be a chain of URIs."""
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
        if at > end:  # user info that contains a ?, or a query that contains an @
            return f"{links}…"
        doubt = "" if at < len(authority) else "…/"  # user info that contains a /, or a path that contains an @
        rest, end = rest[at + 1 :], end - at - 1
    if not _has_host(rest):
        return f"{links}…"
    path = _LATE_QUERY.sub("…", _SETTING.sub(r"\1\2…", rest[:end]))
    return links + doubt + path + _without_values(rest[end:])


def _hidden(uri: str) -> set[str]:
    """Return the parts of URI that `shown` hides, as written, decoded and encoded; of a DSN not the user."""
    visible = shown(uri).lower()
    parts = {
        part
        for part in _DELIMITERS.split(_DSN_USER.sub(r"\1", uri))
        if len(part) >= _SHORTEST and part.lower() not in visible
    }
    return {form for part in parts for form in (part, unquote(part), quote(part, safe="", errors="surrogateescape"))}


def _authority(rest: str) -> str:
    found = _AUTHORITY.match(rest)
    return found[0] if found else ""


def _has_host(rest: str) -> bool:
    """Return whether REST begins with a host and perhaps a port, not with user info that lacks its `@`."""
    return _HOSTS.fullmatch(_authority(rest)) is not None


def _without_values(parameters: str) -> str:
    """Return PARAMETERS, a query and a fragment, with `…` for each value."""
    return _PARAMETER.sub(lambda found: f"{found[1]}{found[2] or ''}…", parameters)


def _plain(text: str) -> str:
    """Return TEXT, which contains no scheme, without what looks like user info or a query."""
    return _QUERY.sub(lambda found: _without_values(found[0].rstrip(_CLOSING)), _USER_INFO.sub("…/", text))
