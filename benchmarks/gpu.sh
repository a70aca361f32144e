#!/usr/bin/env bash
# Runs everything that needs a GPU and has no record yet, most valuable steps first, within a time budget:
#
#     benchmarks/gpu.sh SECONDS [OUT] [--tiny]
#
# The first steps are planned for ten minutes: the tests, a training step of a 1B model, the biographies of 12,000 people with
# all methods at once, Korean from a base pre-trained from scratch. --tiny runs these four in tiny sizes, also without a
# GPU, to try the script; its tests are only collected, and its records mean nothing.
# OUT [runs/gpu] gets records/, logs/ and summary.txt. A step is skipped if its record is in benchmarks/records or
# OUT/records, if its data is missing, or if it does not fit into the rest of SECONDS. An interrupted benchmark keeps its
# results and continues when called again with the same OUT. A step that fails does not stop the others.
#
#     PYTHON      interpreter with torch, transformers and the other requirements  [python3]
#     SCALE_DATA  folder of bases and texts  [data]. Nothing is fetched here: run `scale fetch ITEM $SCALE_DATA/ITEM` on
#                 a machine with a network, for the items english, english-passages, smollm2, korean-bills,
#                 english-offline and korean-offline. The subfolder hub is a Hugging Face cache (its HF_HOME) with the
#                 tokenizer of EleutherAI/pythia-160m, for the paper's biographies
#     SCALE_RUNS  run folders with their checkpoints, gigabytes  [OUT/runs]
#
# Paths are relative to the repository. Exit code: 0 nothing failed, 1 a step failed, 2 a mistake in the request,
# 130 stopped by Ctrl-C or SIGTERM, which the running step receives too.
set -uo pipefail

given=$*
tiny=0
if [[ ${*: -1} == --tiny ]]; then
    tiny=1
    set -- "${@:1:$#-1}"
fi
if [[ ! ${1-} =~ ^[1-9][0-9]*$ ]] || (($# > 2)); then
    echo "gpu.sh: ${given:-(nothing)}: give whole seconds and, if wanted, a folder, as in: benchmarks/gpu.sh 580 runs/gpu" >&2
    exit 2
fi
cd "$(dirname "$0")/.." || exit 1

budget=$1
out=${2:-runs/gpu}
python=${PYTHON:-python3}
data=${SCALE_DATA:-data}
runs=${SCALE_RUNS:-$out/runs}
grace=15  # seconds for a step to save its state before the budget ends
least=120 # smallest number of seconds to start a resumable benchmark with
failed=0
stopped=0
child=''

if ! command -v "$python" >/dev/null; then
    echo "gpu.sh: PYTHON $python: no such program; give an interpreter with torch and transformers" >&2
    exit 2
fi
mkdir -p "$out/records" "$out/logs" "$out/made" "$runs" || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
[[ -d $data/hub ]] && export HF_HOME="$data/hub"

# shellcheck disable=SC2329 # the trap calls it
stop() {
    stopped=1
    [[ -n $child ]] && kill -TERM "$child" 2>/dev/null
}
trap stop INT TERM

# A line of the summary: step, outcome, exit code, seconds.
summary=$out/summary.txt
row() { printf '%-26s %-28s %4s %8s\n' "$@" | tee -a "$summary"; }

# step NAME SECONDS KIND NEEDS MADE COMMAND...
# SECONDS: estimate on one H100. KIND: whole, which must fit, or resumable. NEEDS: paths below SCALE_DATA, separated by
# blanks. MADE: the file that the command writes; it becomes OUT/records/NAME.<its ending> if the command succeeds.
step() {
    local name=$1 estimate=$2 kind=$3 needs=$4 made=$5
    shift 5
    local record=$name.${made##*.} left=$((budget - SECONDS)) wanted=$estimate need missing='' begun code
    ((stopped)) && return
    if [[ -e benchmarks/records/$record || -e $out/records/$record ]]; then
        row "$name" "has its record" - -
        return
    fi
    for need in $needs; do
        [[ -e $data/$need ]] || missing+=" $need"
    done
    if [[ -n $missing ]]; then
        row "$name" "no$missing in SCALE_DATA" - -
        return
    fi
    [[ $kind == resumable ]] && ((wanted > least)) && wanted=$least
    if ((left < wanted + grace)); then
        row "$name" "needs $wanted s, $left s left" - -
        return
    fi
    begun=$SECONDS
    timeout --signal=TERM --kill-after="$grace" "$((left - grace))" "$@" >"$out/logs/$name.log" 2>&1 &
    child=$!
    wait "$child"
    code=$?
    while ((stopped)); do # a signal ends `wait`; the step ends after saving its state
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=''
    if ((code == 0)) && [[ -e $made ]]; then
        cp "$made" "$out/made/$record" && mv "$out/made/$record" "$out/records/$record"
        row "$name" "done" "$code" "$((SECONDS - begun))"
    elif ((stopped)); then
        row "$name" "stopped" "$code" "$((SECONDS - begun))"
    elif ((code == 124 || code == 137)) && [[ $kind == resumable ]]; then
        row "$name" "cut, goes on next time" "$code" "$((SECONDS - begun))"
    else
        failed=1
        ((code == 0)) && echo "gpu.sh: the command ended well and left no $made" >>"$out/logs/$name.log"
        row "$name" "FAILED, see logs/$name.log" "$code" "$((SECONDS - begun))"
    fi
}

# speed NAME SECONDS WORDS...
speed() {
    local name=$1 estimate=$2 made=$out/made/$1.made.json
    shift 2
    step "$name" "$estimate" whole "" "$made" "$python" -m benchmarks.speed "$@" --out "$made"
}

# bench NAME SECONDS NEEDS WORDS...
bench() {
    local name=$1 estimate=$2 needs=$3 main='import sys; from scale_cli.cli import main; sys.exit(main())'
    shift 3
    step "$name" "$estimate" resumable "$needs" "$runs/$name/results.json" \
        "$python" -c "$main" bench "$@" --out "$runs/$name"
}

: >"$summary"
row step outcome rc seconds
tests=$out/made/gpu-tests.made.xml
pytest=(-m pytest -m gpu -q -p no:cacheprovider)
shape=llama-1b people=medium scratch=scratch
if ((tiny)); then
    pytest+=(--collect-only)
    shape=tiny people=benchmarks/tiny/bios.yaml scratch=benchmarks/tiny/korean.yaml
fi
step gpu-tests 90 whole "" "$tests" "$python" "${pytest[@]}" --junit-xml="$tests"
texts="korean-bills english-offline korean-offline"
speed speed-train-step-gpu 90 train-step --shape "$shape"
bench bios-medium-gpu 300 "" bios --preset "$people"
bench korean-scratch-gpu 200 "english english-passages $texts" korean --preset "$scratch" --fetched "$data"
if ((tiny)); then
    ((stopped)) && exit 130
    exit "$failed"
fi
speed speed-memory-gpu 240 memory --shape llama-1b
speed speed-generate-gpu 180 generate --shape llama-1b
speed speed-eval-gpu 120 eval --shape llama-1b
bench korean-small 2400 "smollm2 $texts" korean --preset small --seeds 0,1,2 --fetched "$data"
for name in init layers modules where threshold drift; do
    bench "ablations-$name-small" 1200 "smollm2 $texts" ablations "$name" --preset small --seeds 0,1,2 --fetched "$data"
done
bench bios-paper 200000 hub bios --preset paper

((stopped)) && exit 130
exit "$failed"
