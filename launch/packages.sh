# Debian's packages that convoy needs, and how to get those that are missing. Sourced by
# quickstart.sh and test.sh; needs nothing but dpkg when all are there, so no network either.

build_packages="build-essential cmake pkg-config openmpi-bin libopenmpi-dev libopenblas-dev
  liblmdb-dev libjpeg62-turbo-dev libspng-dev zlib1g-dev libprotobuf-c-dev protobuf-c-compiler
  libyaml-dev libjansson-dev libxxhash-dev"
quickstart_packages="dataset-fashion-mnist"
test_packages="libcmocka-dev strace clang-format python3 python3-numpy python3-torch
  python3-torchvision python3-pil python3-lmdb dataset-fashion-mnist"

# install_missing PACKAGE...: by apt-get, as root or by sudo; nothing to do is done quickly.
install_missing() {
  missing=""
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "these packages are missing and there is no sudo: as root, apt-get install$missing" >&2
      return 1
    }
    sudo=sudo
  fi
  echo "installing:$missing"
  # shellcheck disable=SC2086
  { $sudo apt-get update -q && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q \
      --no-install-recommends $missing; } >"${TMPDIR:-/tmp}/convoy-apt-$$.log" 2>&1 || {
    tail -n 20 "${TMPDIR:-/tmp}/convoy-apt-$$.log" >&2
    return 1
  }
  rm -f "${TMPDIR:-/tmp}/convoy-apt-$$.log"
}
