#!/usr/bin/env bash
# Optuna 5.0.0: a study that goes on with a seeded sampler tries its first settings again.
#
# Guessed: a study is in its storage, so that the same command, killed and given again with the same `seed`, goes
# on where it was: the fifth trial is another than the first. Seen: the storage keeps trials and no generator; with
# RandomSampler, TPESampler (while it still draws at random) and NSGAIISampler, trials 4 to 7 of a study that was
# opened again repeat trials 0 to 3 to the last digit, without a warning. QMCSampler alone goes on in its sequence.
# What it means: each kill of a study spends its random trials once more on settings that are known. Seed the sampler by the
# number of the trial, or do not seed it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check optuna==5.0.0 scipy

cat > "$folder/look.py" <<'PYTHON'
import sys

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)


def four_trials(path, sampler):
    storage = JournalStorage(JournalFileBackend(path))
    study = optuna.create_study(study_name="study", storage=storage, sampler=sampler, load_if_exists=True)
    tried = []
    for _ in range(4):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, (x - 0.3) ** 2)
        tried.append(round(x, 6))
    return tried


seen = {}
for make in (
    optuna.samplers.RandomSampler,
    optuna.samplers.TPESampler,
    optuna.samplers.NSGAIISampler,
    optuna.samplers.QMCSampler,
):
    path = f"{sys.argv[1]}/{make.__name__}.journal"
    before, after = four_trials(path, make(seed=0)), four_trials(path, make(seed=0))
    seen[make.__name__] = before == after
    print(f"optuna {optuna.__version__}, {make.__name__}: {before}, opened again: {after}")
assert seen == {"RandomSampler": True, "TPESampler": True, "NSGAIISampler": True, "QMCSampler": False}, (
    "behaviour changed"
)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/look.py" "$folder"
