#!/bin/sh
# Run dbt on the image's project, or on the one that `nox -s cluster -- sync` has brought instead.
set -eu
# Where OpenLineage writes its events, if to files: it makes no folder itself.
[ -z "${OPENLINEAGE__TRANSPORT__LOG_FILE_PATH:-}" ] || mkdir -p "$(dirname "$OPENLINEAGE__TRANSPORT__LOG_FILE_PATH")" || true
synced=/opt/synced/code.tar.gz
if [ -e "$synced" ]; then
    mkdir /tmp/code
    tar --extract --touch --file "$synced" --directory /tmp/code
    exec python /tmp/code/dbt/run.py "$@"
fi
exec python /opt/dbt/run.py "$@"
