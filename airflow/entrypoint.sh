#!/bin/sh
# Run Airflow on the image's code, or on the code that `nox -s cluster -- sync` has brought instead. It is a copy below
# /tmp/code, which is a link, so that a running DAG processor gets all new files at once.
set -eu
synced=/opt/airflow/synced/code.tar.gz
mkdir -p /tmp/code.0
if [ -e "$synced" ]; then
    tar --extract --touch --file "$synced" --directory /tmp/code.0
else
    cp -Rp /opt/airflow/dags /opt/airflow/feeds /opt/airflow/include /tmp/code.0
fi
ln -sfn code.0 /tmp/code
# A contract's relative path, airflow/data/events.csv for example, begins two folders above the contracts.
ln -sfn /opt/airflow /tmp/airflow
# Where OpenLineage writes its events, if to files: it makes no folder itself.
[ -z "${OPENLINEAGE__TRANSPORT__LOG_FILE_PATH:-}" ] || mkdir -p "$(dirname "$OPENLINEAGE__TRANSPORT__LOG_FILE_PATH")" || true
export AIRFLOW__CORE__DAGS_FOLDER=/tmp/code/dags PYTHONPATH=/tmp/code/include
exec /usr/bin/dumb-init -- /entrypoint "$@"
