#!/usr/bin/env bash
# mlflow-skinny 3.17.2: the small client of MLflow can write to no store on this machine.
#
# Guessed: what is sold as the light client for logging logs a metric to a local store, a folder (the default of many
# years) or a SQLite file, as the whole package does. Seen: a folder is refused ("maintenance mode") unless
# MLFLOW_ALLOW_FILE_STORE=true, and a SQLite file with "unsupported URI", with a list that does not have sqlite; neither
# is said at installation. The whole package of the same version writes to SQLite.
# What it means: in training images with mlflow-skinny, runs can be logged to a server only, or with that variable set.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/look.py" <<'PYTHON'
import sys

import mlflow

try:
    mlflow.set_tracking_uri(sys.argv[1])
    with mlflow.start_run():
        mlflow.log_metric("return", 1.0)
    print("logged")
except Exception as error:
    print(type(error).__name__)
PYTHON
look() { "$folder/venv/bin/python" -W ignore "$folder/look.py" "$1" 2> /dev/null | tail -n 1; }
install() { "$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "$1"; }

install mlflow-skinny==3.17.2
skinny="folder: $(look "file://$folder/runs"), SQLite: $(look "sqlite:///$folder/skinny.db")"
allowed="folder with MLFLOW_ALLOW_FILE_STORE: $(MLFLOW_ALLOW_FILE_STORE=true look "file://$folder/runs")"
install mlflow==3.17.2
whole="SQLite: $(look "sqlite:///$folder/whole.db")"
echo "mlflow-skinny 3.17.2: $skinny, $allowed; mlflow 3.17.2: $whole"
[ "$skinny" = "folder: MlflowException, SQLite: UnsupportedModelRegistryStoreURIException" ] &&
    [ "$allowed" = "folder with MLFLOW_ALLOW_FILE_STORE: logged" ] && [ "$whole" = "SQLite: logged" ] || {
    echo "behaviour changed"
    exit 1
}
