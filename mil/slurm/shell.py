"""The shell of job scripts: signals passed on, the program's code, and back into the queue."""

FUNCTIONS = """\
# What the job scripts beside this share. Written by `gigamil submit`, which writes it anew each time.

job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
program="" told="" ever=""

pass_on() {
    [ -n "$program" ] || leave 75 # nothing begun yet
    told=yes ever=yes
    kill -s "$1" "$program" 2>/dev/null
}

# Waits for the program, whatever signal comes in between, and leaves its code in $code.
await() {
    while :; do
        told=""
        wait "$program"
        code=$?
        [ -n "$told" ] || break
    done
    [ "$code" -ge 0 ] || code=143 # the shell lost it to a signal that came at the same moment
    trap '' TERM USR1 USR2
}

# Back into the queue, unless the job was cancelled: then it runs no longer although it had time left.
again() {
    trap '' TERM USR1 USR2
    case $(squeue --noheader --jobs="$job" --format='%T %L') in
    RUNNING* | *' INVALID' | *' 0:00') ;;
    *) return ;;
    esac
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most_requeues" ]; then
        echo "gigamil: $job has gone back into the queue $most_requeues times: not once more"
        return
    fi
    scontrol requeue "$job"
}

# 75, 143, 140: saved and left, stopped, or stopped before it listened.
leave() {
    case $1 in
    75 | 143 | 140) again ;;
    esac
    exit "$1"
}

# Some items failed: the next stage goes on with the others.
go_on() {
    [ "$code" -eq 1 ] || return
    echo "gigamil: some items failed, as said above; the next stage goes on with the others"
    code=0
}

# No scheduler: the driver waits in the queue, or is gone; the node is given back.
no_scheduler() {
    [ ! -e "$ended" ] || exit 0
    waiting=$(squeue --noheader --name="$driver" --format=%i) || leave 75
    [ -n "$waiting" ] || exit 0
    leave 75
}

# Waits for the scheduler's file, two minutes at most.
await_scheduler() {
    waited=0
    until [ -s "$scheduler_file" ]; do
        [ ! -e "$ended" ] || exit 0
        [ "$waited" -lt 120 ] || no_scheduler
        sleep 1
        waited=$((waited + 1))
    done
}

# Starts what follows as the Dask scheduler, and waits for its file.
begin_scheduler() {
    rm -f "$scheduler_file"
    "$@" &
    scheduler=$!
    until [ -s "$scheduler_file" ]; do
        kill -0 "$scheduler" 2>/dev/null || { echo "gigamil: the Dask scheduler did not start"; exit 2; }
        sleep 0.2
    done
}

# Where the scheduler died before the driver, the driver is to go on with a new one.
end_scheduler() {
    [ "$code" -eq 0 ] || kill -0 "$scheduler" 2>/dev/null || code=75
    case $code in
    75 | 143 | 140) ;;
    *) : >"$ended" ;; # workers need not look for it any more
    esac
    kill "$scheduler"
    wait "$scheduler"
    rm -f "$scheduler_file"
}

# What a program is told so that it saves and leaves: NCCL takes USR1 for itself, it gets USR2 in its place.
trap 'pass_on "${soft:-USR2}"' USR1 USR2
trap 'pass_on TERM' TERM
"""
