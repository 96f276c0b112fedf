#!/usr/bin/env bash
# Every figure of docs/results/performance.md that needs a GPU, on one GPU: bash benchmarks/gpu.sh [FOLDER]
# DRY=1 runs the same commands at a tiny size on the processor, to see that they work.
# liger-kernel is measured beside ours where it is installed: pip install liger-kernel.
# PUBLIC=CHECKOUT measures the authors' public code beside ours, from a clone of github.com/razvanmatisan/purrception
# (pip install timm einops).
set -euo pipefail

out=${1:-gpu-figures}
bench=(python -m purrception bench)
if [[ -n ${DRY:-} ]]; then
    sizes=(--network nano/2 --grid 4 --codebook-size 33 --device cpu --precision bfloat16 --repeats 1 --memory False)
    batches=(1 2)
    codebooks=(33 66)
    tokenizer=(8 8)
    steps=2
    compile=False
else
    sizes=(--network XL/2 --grid 32 --codebook-size 16384 --device cuda --precision bfloat16 --repeats 20)
    batches=(8 16 32 64)
    codebooks=(16384 65536 262144)
    tokenizer=(128 256 256 512)
    steps=20
    compile=True
fi

# Model FLOPs utilisation, images/s and peak memory of a training step, by batch size.
"${bench[@]}" "${sizes[@]}" --compile "$compile" --parts training --variants ours "factored head" \
    --vary batch-size --values "${batches[@]}" --out "$out/training"
# The same with the blocks recomputed, for what memory allows then.
"${bench[@]}" "${sizes[@]}" --compile "$compile" --recompute True --parts training --variants ours \
    --vary batch-size --values "${batches[@]}" --out "$out/training-recomputed"
# Beside the plain form, which holds all logits.
"${bench[@]}" "${sizes[@]}" --compile "$compile" --parts training --batch-size "${batches[0]}" --out "$out/reference"
# A sampling step, and whole images: twenty guided steps and vq-f8's decoder.
"${bench[@]}" "${sizes[@]}" --compile "$compile" --parts sampling \
    --vary batch-size --values "${batches[@]}" --out "$out/sampling"
"${bench[@]}" "${sizes[@]}" --compile "$compile" --parts generation --steps "$steps" \
    --tokenizer-channels "${tokenizer[@]}" --repeats 3 --batch-size "${batches[1]}" --out "$out/generation"
# The head beside torch's linear_cross_entropy and, where it is installed, liger-kernel's.
"${bench[@]}" "${sizes[@]}" --compile "$compile" --parts head --batch-size "${batches[1]}" --out "$out/head"
# How the head grows with the codebook.
"${bench[@]}" "${sizes[@]}" --parts head --variants ours "factored head" --batch-size "${batches[0]}" \
    --vary codebook-size --values "${codebooks[@]}" --out "$out/codebook"
# The public code, by batch size.
if [[ -n ${PUBLIC:-} ]]; then
    for batch in "${batches[@]}"; do
        python "$(dirname "$0")/public.py" "$PUBLIC" "${sizes[@]}" --compile "$compile" --batch-size "$batch" \
            | tee "$out/public-$batch.md"
    done
fi
