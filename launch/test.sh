#!/bin/sh
# Install what is missing, build everything and run every test; ends in ctest's summary. Arguments go
# to ctest: launch/test.sh -R comm
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
. launch/packages.sh
preset=${CONVOY_PRESET:-release}
# shellcheck disable=SC2086
install_missing $build_packages $test_packages
cmake --preset "$preset" -DCONVOY_WITH_TESTS=ON -DCONVOY_WITH_BENCH=ON
cmake --build --preset "$preset" -j "$(nproc)"
exec ctest --preset "$preset" --no-tests=error -j "$(nproc)" "$@"
