#!/usr/bin/env bash
# How long a user waits for the first step: from the command `convoy train` to the end of the first
# step of LeNet-5 with a coordinator and two workers, MPI's start included.
#
#     bench/bench_start.sh [CONVOY]     (default: build/release/launch/convoy)
#
# Each of 5 runs makes one step on 1,024 random images of its own. Two figures: until the event
# "trained", or where the run has none "saved" (the first step's checkpoint is on disk), and until
# the command has ended. Prints a row for RESULTS.md: median (min-max) in seconds.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "$0")/.." && pwd)
convoy=$(realpath "${1:-$root/build/release/launch/convoy}")
n_runs=5
n_images=1024

[ -x "$convoy" ] || {
    echo "$convoy is no program: build convoy, or give its path" >&2
    exit 66
}
folder=$(mktemp -d "${TMPDIR:-/tmp}/convoy-start-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# A number as four bytes, high byte first, in printf's escapes.
big_endian() {
    printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) \
        $(($1 >> 8 & 255)) $(($1 & 255))
}

# IDX: a magic number with the type (bytes) and the dimensions, their extents, the values.
make_data() {
    local labels="" i
    {
        printf '%b' "\x00\x00\x08\x03$(big_endian $n_images)$(big_endian 28)$(big_endian 28)"
        head -c $((n_images * 28 * 28)) /dev/urandom
    } >train-images-idx3-ubyte
    for ((i = 0; i < n_images; i++)); do labels+="\\x0$((i % 10))"; done
    printf '%b' "\x00\x00\x08\x01$(big_endian $n_images)$labels" >train-labels-idx1-ubyte
    "$convoy" import idx . data.lmdb >import.log 2>&1 || {
        cat import.log >&2
        exit 65
    }
}

make_job() {
    cat >job.yaml <<'JOB'
name: start
model: {arch: lenet5}
data: {train: {path: data.lmdb}}
replicas: 2
minibatch: 32
steps: 1
schedule: {type: constant, lr: 0.01}
JOB
}

now_ms() { date +%s%3N; }

# Milliseconds since the epoch of an event of a run; fails when there is none.
event_ms() { # FOLDER EVENT
    local text
    text=$(sed -n "s/^{\"event\":\"$2\".*\"time\":\"\([^\"]*\)\".*/\1/p" "$1/events.jsonl" |
        head -n 1)
    [ -n "$text" ] && date -d "$text" +%s%3N
}

# Milliseconds, one a line -> "median (min-max)" in seconds.
spread() {
    sort -n | awk '{ ms[NR] = $1 }
        END { printf "%.3f (%.3f-%.3f)", ms[int((NR + 1) / 2)] / 1e3, ms[1] / 1e3, ms[NR] / 1e3 }'
}

make_data
make_job
until=""
for ((i = 1; i <= n_runs; i++)); do
    start=$(now_ms)
    "$convoy" train job.yaml --workers 2 --set "run=run-$i" >"run-$i.log" 2>&1 || {
        code=$?
        cat "run-$i.log" >&2
        echo "run $i ended with exit code $code" >&2
        exit 1
    }
    end=$(now_ms)
    until=trained
    step=$(event_ms "run-$i" trained) || {
        until=saved
        step=$(event_ms "run-$i" saved)
    } || {
        echo "run $i: its events.jsonl has neither trained nor saved" >&2
        exit 1
    }
    echo $((step - start)) >>step.txt
    echo $((end - start)) >>command.txt
done

model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
commit=$(git -C "$root" describe --always --dirty=+changes --exclude='*' 2>/dev/null) ||
    commit=unknown
machine="${model:-unknown processor}, $(nproc) cores"
echo "Commit $commit; $machine; $(date +%F); \`bench/bench_start.sh\`"
echo
echo "| net | workers | first step, s (event $until) | whole command, s |"
echo "| --- | --- | --- | --- |"
echo "| lenet5 | 2 | $(spread <step.txt) | $(spread <command.txt) |"
