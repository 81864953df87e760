"""The shell that every job script shares: signals passed on, the program's code, and back into the queue."""

SIGNALS = """\
# What the program is told, so that it saves and leaves: NCCL takes USR1 for itself, it gets USR2 in its place.
trap 'pass_on {soft}' USR1 USR2
trap 'pass_on TERM' TERM
"""
PROLOGUE = """\
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
    if [ "${SLURM_RESTART_COUNT:-0}" -ge MOST_REQUEUES ]; then
        echo "gigamil: $job has gone back into the queue MOST_REQUEUES times: not once more"
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
"""
GOES_ON = """\
if [ "$code" -eq 1 ]; then
    echo "gigamil: some items failed, as said above; the next stage goes on with the others"
    code=0
fi
"""
DRIVER_BEGINS = """\
rm -f "$scheduler_file"
{scheduler} &
scheduler=$!
until [ -s "$scheduler_file" ]; do
    kill -0 "$scheduler" 2>/dev/null || {{ echo "gigamil: the Dask scheduler did not start"; exit 2; }}
    sleep 0.2
done
"""
DRIVER_ENDS = """\
case $code in
75 | 143 | 140) ;;
*) : >"$ended" ;; # workers that find no scheduler any more need not wait for one
esac
kill "$scheduler"
wait "$scheduler"
rm -f "$scheduler_file"
"""
WORKERS = """\
waited=0
until [ -s "$scheduler_file" ]; do
    [ ! -e "$ended" ] || exit 0
    [ "$waited" -lt 120 ] || no_scheduler
    sleep 1
    waited=$((waited + 1))
done
{worker} &
program=$!
await
[ ! -e "$ended" ] || exit 0
[ "$code" -eq 0 ] || [ "$SECONDS" -gt 60 ] || exit "$code" # it did not even start
no_scheduler
"""
NO_SCHEDULER = """\
# The driver waits in the queue, or is gone: the node is given back.
no_scheduler() {{
    driver=$(squeue --noheader --name={driver} --format=%i) || leave 75
    [ -n "$driver" ] || exit 0
    leave 75
}}
"""
