#!/usr/bin/env bash
# Train on Slurm, and be put back into the queue when the time limit or a preemption ends the run:
#
#   sbatch --nodes 1 --gpus-per-node 8 --ntasks-per-node 8 --cpus-per-task 8 --time 24:00:00 \
#       tools/slurm_train.sh CONFIG [options of tools/train.py]
#
# One task per GPU. 120 s before the limit Slurm sends USR1 to this script, which hands it on; the run finishes its
# step, saves and exits with 85 (docs/guards.md), and the job is requeued and goes on with --resume auto.
# PYTHON=path names the interpreter, MAX_REQUEUES (default 100) ends a job that gets nowhere.
#SBATCH --job-name=train
#SBATCH --output=%x_%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

set -u
readonly SAVED=85
if [[ $# -lt 1 || $1 == -* ]]; then
    echo "usage: sbatch [options of sbatch] $0 CONFIG [options of tools/train.py]" >&2
    exit 2
fi
config=$1
work_dir=work_dirs/$(basename "${config%.py}")
previous=
for word in "$@"; do
    [[ $previous == --work-dir ]] && work_dir=$word
    [[ $word == --work-dir=* ]] && work_dir=${word#--work-dir=}
    previous=$word
done
note=$work_dir/last_exit.json
rm -f "$note"

# Slurm runs a copy of this script, so the project is where sbatch was called.
train=${SLURM_SUBMIT_DIR:-.}/tools/train.py
srun --kill-on-bad-exit=1 "${PYTHON:-python}" -u "$train" "$@" --launcher slurm --resume auto &
child=$!
for name in USR1 TERM INT; do
    trap "kill -$name $child 2>/dev/null" "$name"
done
code=0
while :; do # a trapped signal ends `wait` early
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break
done
wait "$child" 2>/dev/null && code=0 || { last=$?; [[ $last -ne 127 ]] && code=$last; }
trap - USR1 TERM INT

# Of several tasks srun reports the highest code; the note is the word of the run itself.
if [[ $code -eq $SAVED ]] || grep -Eq "\"code\": *$SAVED\b" "$note" 2>/dev/null; then
    if [[ ${SLURM_RESTART_COUNT:-0} -ge ${MAX_REQUEUES:-100} ]]; then
        echo "requeued $SLURM_RESTART_COUNT times already (MAX_REQUEUES=${MAX_REQUEUES:-100}); not again" >&2
        exit "$SAVED"
    fi
    echo "the run has saved everything; job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit $?
fi
exit "$code"
