#!/bin/sh
# From a fresh machine to a trained net: install what is missing, build, import Fashion-MNIST, train
# ResNet-20 with a coordinator and two workers, evaluate, say where the report is. A run that was
# interrupted goes on where it stood.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
. launch/packages.sh
# shellcheck disable=SC2086
install_missing $build_packages $quickstart_packages

echo "building"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ cmake --preset release -DCONVOY_WITH_TESTS=OFF -DCONVOY_WITH_BENCH=OFF &&
    cmake --build --preset release -j "$(nproc)" --target convoy; } >"$log" 2>&1 || {
  tail -n 30 "$log" >&2
  exit 1
}
convoy=$root/build/release/launch/convoy

source=/usr/share/datasets/fashion-mnist
[ -d "$source" ] || source=$(dirname "$(dpkg -L dataset-fashion-mnist |
  grep 'train-images-idx3-ubyte' | head -n 1)")
names=launch/jobs/fashion-mnist-classes.txt
mkdir -p data
[ -d data/fashion-mnist-train.lmdb ] ||
  "$convoy" import idx "$source"/train-images-idx3-ubyte* data/fashion-mnist-train.lmdb \
    --classes "$names"
[ -d data/fashion-mnist-test.lmdb ] ||
  "$convoy" import idx "$source"/t10k-images-idx3-ubyte* data/fashion-mnist-test.lmdb \
    --classes "$names"

run=runs/quickstart
if [ -e "$run/report.html" ] && grep -q '"finished"' "$run/events.jsonl"; then
  echo "$run is complete already (remove the folder to train again)"
else
  "$convoy" train launch/jobs/fashion-mnist.yaml --workers 2 --set "run=$run"
fi
"$convoy" eval launch/jobs/fashion-mnist.yaml --checkpoint "$run"
echo "report: $root/$run/report.html"
