#!/usr/bin/env bash
# What a few minutes of one GPU can measure, the most important first: bash benchmarks/gpu.sh [FOLDER]
#
# Runs from the source tree: nothing needs to be installed but torch and the contents of WHEELS. Each part has a time
# limit of its own, and LIMIT ends the whole; a part that fails or runs out of time does not stop the others. Results
# are in FOLDER at once: a log of each part, its reports and pictures, and summary.md.
#
#   WHEELS=FOLDER    install these wheels first, for a machine without a network; benchmarks/wheels.sh makes them
#   ARCHIVE=FILE     keep a .tar.gz of FOLDER there, renewed after each part
#   PUBLIC=CHECKOUT  also measure the authors' public code: a clone of github.com/razvanmatisan/purrception
#   EMOJI=FOLDER     npm's packages of emoji (docs/how-to/data.md), for four styles instead of OpenMoji alone
#   LIMIT=SECONDS    time limit of the whole; 540 by default
#   PARTS="a b"      run only these parts
#   DRY=1            the same at a tiny size on a CPU, to see that it works
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-gpu-figures}
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=${PYTHON:-python3}
export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
[[ -z ${PUBLIC:-} ]] || PUBLIC=$(cd "$PUBLIC" && pwd)
started=$SECONDS
failures=0

if [[ -n ${WHEELS:-} ]]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH=$PYTHONPATH:$scratch/site
fi

if [[ -n ${DRY:-} ]]; then
    sizes=(--network nano/2 --grid 4 --codebook-size 33 --device cpu --precision bfloat16 --repeats 1 --order alone)
    kernels=(ours)
    few=2 some=2 many=(1 2) compile=False tokenizer=(8 8) steps=2 codebooks=(33 66)
    learn=(--training.steps 20 --tokenizer.training.steps 10 --tokenizer.model.channels 8 8 8 --training.device cpu)
    pictures=(--tokenizer.training.steps 4 --tokenizer.model.channels 8 8 8 --network.depth 1 --network.width 32
        --network.heads 2 --training.steps 4 --training.device cpu --training.compile False --evaluation.num 20 --evaluation.classifier.steps 5)
    least=3
    tests=(-k "not compiled and not command_line and not (float32 and goes_on)")
    export GPU_TESTS=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
else
    sizes=(--network XL/2 --grid 32 --codebook-size 16384 --device cuda --precision bfloat16 --repeats 8)
    kernels=(ours chunks)
    few=32 some=64 many=(32 64 128 192) compile=True tokenizer=(128 256 256 512) steps=20 codebooks=(16384 65536 262144)
    learn=(--training.steps 1000 --training.device cuda) # held-out images do not improve after that
    pictures=()
    least=15 # seconds without which no part is begun
    tests=()
fi
[[ -z ${EMOJI:-} ]] || pictures+=(--data.root "$(cd "$EMOJI" && pwd)" --data.styles openmoji google twitter fluent)
bench=("$python" -m purrception bench "${sizes[@]}" --memory False)

archive() {
    [[ -z ${ARCHIVE:-} ]] || { tar -czf "$ARCHIVE.part" -C "$(dirname "$out")" "$(basename "$out")" \
        && mv "$ARCHIVE.part" "$ARCHIVE"; }
}

# part NAME SECONDS COMMAND …: run it, within its own time limit and that of the whole, and record the result.
part() {
    local name=$1 limit=$2 left=$((${LIMIT:-540} - SECONDS + started)) began=$SECONDS status result
    shift 2
    [[ -z ${PARTS:-} || " $PARTS " == *" $name "* ]] || return 0
    if ((left < least)); then
        echo "| $name | 0 | left out: no time |" >>"$out/summary.md"
        return 0
    fi
    echo "== $name, at most $((limit < left ? limit : left)) s"
    (cd "$root" && timeout -k 5 $((limit < left ? limit : left)) "$@") >"$out/$name.log" 2>&1
    status=$?
    case $status in
        0) result=done ;;
        124 | 137) result="out of time" ;;
        *) result="failed ($status)" ;;
    esac
    ((status == 0)) || { failures=$((failures + 1)); tail -n 15 "$out/$name.log"; }
    echo "| $name | $((SECONDS - began)) | $result |" >>"$out/summary.md"
    archive
}

{
    echo "# Figures of one GPU"
    echo
    echo "Commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo "${COMMIT:-not known}"), $(date -u +%F)," \
        "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no GPU")," \
        "$("$python" -c 'import sys, torch; print("Python", sys.version.split()[0] + ", torch", torch.__version__)')"
    echo
    echo "| part | seconds | result |"
    echo "|---|---|---|"
} >"$out/summary.md"

# a: the same numbers as on a CPU, in float32 and bfloat16; nothing waits; a run resumes; recordings.
part tests 150 "$python" -m pytest -vv -p no:cacheprovider -m gpu tests/test_gpu.py "${tests[@]}"
# b: a training step by batch size: images/s, MFU, peak memory; as it stands, then compiled.
part training 75 "${bench[@]}" --parts training --variants ours --vary batch-size --values "${many[@]}" \
    --out "$out/training"
part training-compiled 110 "${bench[@]}" --compile "$compile" --parts training --variants "${kernels[@]}" \
    --batch-size "$some" --out "$out/training-compiled"
part training-large 60 "${bench[@]}" --compile "$compile" --parts training --variants "${kernels[0]}" \
    --batch-size "${many[-2]}" --out "$out/training-large"
# c: the head alone, in Triton and in chunks, against the plain form, torch's and liger's.
part head 60 "${bench[@]}" --compile "$compile" --parts head --batch-size "$some" --out "$out/head"
# d: where the time of a compiled step goes.
part profile 90 "$python" benchmarks/gpu_profile.py "${sizes[@]}" --compile "$compile" --batch-size "$some" \
    --out "$out/profile"
# e: whole images: twenty guided steps and vq-f8's decoder.
part generation 90 "${bench[@]}" --compile "$compile" --parts generation --variants "${kernels[@]}" recorded reference \
    --steps "$steps" --tokenizer-channels "${tokenizer[@]}" --repeats 2 --batch-size "$few" --out "$out/generation"
part sampling 60 "${bench[@]}" --parts sampling --variants "${kernels[@]}" guided --batch-size "$some" \
    --out "$out/sampling"
# f: a whole training, with its samples.
part learning 130 bash -euo pipefail -c '
    python=$1 scratch=$2 out=$3
    shift 3
    "$python" -m purrception train digits --runs "$scratch" --name learned "$@"
    "$python" -m purrception sample "$scratch/learned" --num 100 --out "$scratch/images"
    cp "$scratch/images/grid.png" "$out/digits.png"
    cp "$scratch/learned/metrics.jsonl" "$out/digits.jsonl"
' learning "$python" "$scratch" "$out" "${learn[@]}"
# Less important, while there is time.
[[ -z ${PUBLIC:-} ]] || part public 60 "$python" benchmarks/public.py "$PUBLIC" "${sizes[@]}" --batch-size "$few"
part codebook 60 "${bench[@]}" --parts head --variants ours "factored head" --batch-size "$few" \
    --vary codebook-size --values "${codebooks[@]}" --out "$out/codebook"
part recomputed 60 "${bench[@]}" --recompute True --parts training --variants ours --batch-size "${many[-1]}" \
    --out "$out/recomputed"

# g: a model worth looking at, in about eight minutes: alone with PARTS=emoji.
part emoji 500 bash -euo pipefail -c '
    python=$1 scratch=$2 out=$3
    shift 3
    "$python" -m purrception plan emoji-gpu "$@"
    "$python" -m purrception train emoji-gpu --runs "$scratch" --name emoji "$@"
    "$python" -m purrception sample "$scratch/emoji" --num 100 --guidance 2 --out "$scratch/emoji-images"
    cp "$scratch/emoji-images/grid.png" "$out/emoji.png"
    cp "$scratch/emoji/metrics.jsonl" "$out/emoji.jsonl"
    cp "$scratch/emoji/tokenizer/metrics.jsonl" "$out/emoji-tokenizer.jsonl"
    "$python" -m purrception evaluate "$scratch/emoji" --out "$out/emoji"
' emoji "$python" "$scratch" "$out" "${pictures[@]}"

cat "$out"/summary.md
for report in training training-compiled training-large head profile generation sampling codebook recomputed; do
    cat "$out/$report/report.md" "$out/$report/profile.md" 2>/dev/null | grep '^|' | grep -v -- '---'
done
archive
exit $((failures > 0))
