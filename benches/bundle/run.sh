#!/usr/bin/env bash
# Room: benches. Runs a bundle on a machine that has an NVIDIA driver and nothing else: no Rust, no
# CUDA toolkit. Made by `cargo xtask bundle`; see usage below.
set -u
usage() {
    cat <<'END'
usage: run.sh OUT [tests|sanitize|bench|compare|profile|all] [SECONDS]

  OUT       folder for logs and JSON; made if need be
  tests     every test of the CUDA engine
  sanitize  some of them under compute-sanitizer, where there is one
  bench     the benchmarks
  compare   against PyTorch and others, where python3 has torch
  profile   one step of each loss under ncu, where there is one
  all       all of these, in this order (the default)
  SECONDS   what everything together may take; 1500 by default. What is running then is stopped and
            counted as failed, what has not begun is named

Variables: PYTHON, COMPUTE_SANITIZER and NCU name programs elsewhere; COMPARE_OPTIONS and
BENCH_OPTIONS are handed on. Exit status 0: everything asked for was run and nothing failed, or the
program that it needs is not on this machine.
END
}
case "${1:-}" in
    "" | -h | --help) usage; [ -n "${1:-}" ]; exit ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
what=${2:-all}
limit=${3:-1500}
case "$what" in
    tests | sanitize | bench | compare | profile) stages=$what ;;
    all) stages="tests sanitize bench compare profile" ;;
    *) echo "run.sh: no such thing as $what" >&2; usage >&2; exit 2 ;;
esac
case "$limit" in
    *[!0-9]* | "" | 0) echo "run.sh: SECONDS is a whole number above 0, not $limit" >&2; exit 2 ;;
esac
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
begin=$SECONDS
rows=()
failures=0

left() { echo $((limit - (SECONDS - begin))); }

# Text inside a JSON string.
json() { printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# row STAGE NAME OUTCOME SECONDS DETAIL
row() {
    rows+=("$(printf '%s\037%s\037%s\037%s\037%s' "$@")")
    if [ "$3" = FAILED ]; then failures=$((failures + 1)); fi
    printf '%-8s  %-28s  %-7s  %5s s  %s\n' "$@" >&2
}

finish() {
    local line stage name outcome seconds detail comma=
    {
        printf '{"device": "%s", "bundle": "%s", "rows": [' "$(json "$device")" "$(json "$about")"
        for line in ${rows[@]+"${rows[@]}"}; do
            IFS=$'\037' read -r stage name outcome seconds detail <<< "$line"
            printf '%s\n  {"stage": "%s", "name": "%s", "outcome": "%s", "seconds": %s, "detail": "%s"}' \
                "$comma" "$stage" "$(json "$name")" "$outcome" "$seconds" "$(json "$detail")"
            comma=,
        done
        printf '\n]}\n'
    } > "$out/summary.json"
    echo
    echo "$device"
    echo "$about"
    printf '%-8s  %-28s  %-7s  %7s  %s\n' stage what outcome time ""
    for line in ${rows[@]+"${rows[@]}"}; do
        IFS=$'\037' read -r stage name outcome seconds detail <<< "$line"
        printf '%-8s  %-28s  %-7s  %5s s  %s\n' "$stage" "$name" "$outcome" "$seconds" "$detail"
    done
    echo "$failures failed; logs in $out"
    if [ "$failures" -gt 0 ]; then exit 1; fi
    exit 0
}

# The executables: packed, since each embeds the same kernels, or beside this script.
programs=$here
if [ -f "$here/executables.tar.xz" ]; then
    programs=$(mktemp -d) || exit 2
    trap 'rm -rf "$programs"' EXIT
    if ! tar -C "$programs" -xJf "$here/executables.tar.xz" 2> /dev/null &&
        ! python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' \
            "$here/executables.tar.xz" "$programs"; then
        echo "run.sh: executables.tar.xz cannot be unpacked: tar with xz is needed, or python3" >&2
        exit 2
    fi
fi

about=$(tr '\n' ' ' < "$here/about" 2> /dev/null || echo "unknown bundle")

# A driver that does not answer is a failure of everything, and said first.
if probed=$(timeout 120 "$programs/xtask" probe 2>&1); then
    device=$(printf '%s' "$probed" | tr '\t' ' ')
else
    device="no CUDA device: $probed"
    row tests driver FAILED 0 "$device"
    finish
fi
# The driver is there: a test that skips itself nevertheless has failed.
export METRIC_KERNELS_EXPECT_CUDA=1

# logged LOG COMMAND...: runs it within the time that is left; sets status and took.
logged() {
    local log=$1 start=$SECONDS
    shift
    printf '$ %s\n' "$*" > "$log"
    timeout --kill-after=10 "$(left)" "$@" >> "$log" 2>&1 < /dev/null
    status=$?
    took=$((SECONDS - start))
}

# enough STAGE NAME: whether there is time left; a row if not.
enough() {
    if [ "$(left)" -gt 0 ]; then return 0; fi
    row "$1" "$2" FAILED 0 "not begun: the $limit s are over"
    return 1
}

# found NAME VARIABLE-VALUE: the path of a program of the CUDA toolkit, if there is one.
found() {
    if [ -n "$2" ]; then echo "$2"; return; fi
    command -v "$1" && return
    ls -d /usr/local/cuda*/bin/"$1" /opt/nvidia/nsight-compute/*/"$1" 2> /dev/null | tail -n 1
}

# sums LOG: passed, failed and ignored tests.
sums() {
    awk '/^test result:/ { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i;
         if ($(i+1) ~ /^failed/) f += $i } } END { printf "%d passed, %d failed", p, f }' "$1"
}

# tested STAGE NAME LOG: the row of a test executable that has ended.
tested() {
    local outcome=ok detail skipped
    detail=$(sums "$3")
    # On a GPU, tests about the emulator skip themselves and say so; nothing else may.
    skipped=$(grep -a '^SKIPPED:' "$3" | grep -av 'it is about the emulator' | sort -u | head -n 1)
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        outcome=FAILED detail="stopped: out of time; $detail"
    elif [ "$status" != 0 ]; then
        outcome=FAILED detail="exit status $status; $detail"
    elif [ -n "$skipped" ]; then
        outcome=FAILED detail="$skipped"
    elif ! grep -aq '^test result: ok' "$3"; then
        outcome=FAILED detail="no test was run"
    fi
    row "$1" "$2" "$outcome" "$took" "$detail"
}

tests() {
    local test name
    mkdir -p "$out/tests"
    for test in "$programs"/tests/*; do
        name=$(basename "$test")
        enough tests "$name" || continue
        logged "$out/tests/$name.log" "$test" --show-output
        tested tests "$name" "$out/tests/$name.log"
    done
}

sanitize() {
    local sanitizer tool name log
    sanitizer=$(found compute-sanitizer "${COMPUTE_SANITIZER:-}")
    if [ -z "$sanitizer" ]; then
        row sanitize - missing 0 "no compute-sanitizer on this machine"
        return
    fi
    mkdir -p "$out/sanitize"
    for tool in memcheck racecheck initcheck synccheck; do
        for name in cuda_primitives cuda_steps cuda_edge_cases; do
            [ -x "$programs/tests/$name" ] || continue
            enough sanitize "$tool $name" || continue
            log=$out/sanitize/$tool-$name.log
            logged "$log" "$sanitizer" --tool "$tool" --error-exitcode 99 "$programs/tests/$name" \
                --test-threads 1
            tested sanitize "$tool $name" "$log"
        done
    done
}

bench() {
    local name=engines
    enough bench "$name" || return
    mkdir -p "$out/bench"
    # shellcheck disable=SC2086 # options are words
    CRITERION_HOME="$out/bench/criterion" METRIC_KERNELS_BENCH_OUT="$out/bench" \
        logged "$out/bench/$name.log" "$programs/benches/$name" --bench ${BENCH_OPTIONS:-cuda}
    if [ "$status" = 0 ]; then
        row bench "$name" ok "$took" "$(grep -ac 'time: ' "$out/bench/$name.log") timed"
    else
        row bench "$name" FAILED "$took" "exit status $status: $(tail -n 1 "$out/bench/$name.log")"
    fi
}

compare() {
    local python=${PYTHON:-python3} why
    local test='import sys, torch
torch.cuda.is_available() or sys.exit("this torch finds no CUDA device")
print(torch.__version__)'
    if ! why=$("$python" -c "$test" 2>&1); then
        row compare - missing 0 "$python: $(printf '%s' "$why" | tail -n 1)"
        return
    fi
    enough compare peers || return
    mkdir -p "$out/compare"
    # shellcheck disable=SC2086 # options are words
    logged "$out/compare/compare.log" "$programs/benches/compare" --device cuda --python "$python" \
        --programs "$here/peers" --out "$out/compare" --commit "$(sed -n 's/^commit //p' "$here/about")" \
        ${COMPARE_OPTIONS:-}
    if [ "$status" = 0 ]; then
        row compare peers ok "$took" "torch $why"
    else
        row compare peers FAILED "$took" "exit status $status: $(tail -n 1 "$out/compare/compare.log")"
    fi
}

profile() {
    local ncu name
    ncu=$(found ncu "${NCU:-}")
    if [ -z "$ncu" ]; then
        row profile - missing 0 "no ncu on this machine"
        return
    fi
    mkdir -p "$out/profile"
    for name in cross-example in-batch ice; do
        enough profile "$name" || continue
        # The clocks stay as they are: a shared machine's must not be locked.
        logged "$out/profile/$name.csv" "$ncu" --clock-control none --set full --csv --page raw \
            --force-overwrite --launch-skip 8 --launch-count 24 \
            "$programs/benches/report" workload --loss "$name" --n 8192 --d 256 --steps 3
        if [ "$status" = 0 ]; then
            row profile "$name" ok "$took" "$(grep -ac '^"' "$out/profile/$name.csv") lines"
        else
            row profile "$name" FAILED "$took" "exit status $status"
        fi
    done
}

for stage in $stages; do
    "$stage"
done
finish
