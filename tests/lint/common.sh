# Sourced by the scripts beside it. Each takes [--root FOLDER] (default: this checkout) or
# --self-test, which makes small trees with and without a violation and checks the verdicts.
# Exit codes: 0 clean, 1 something found, 77 skipped, 2 wrong usage.
set -u
LC_ALL=C
export LC_ALL

lint_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$lint_folder/../.." && pwd)
mode=check
n_found=0

# Folders that become libraries; launch is the program's own.
library_folders="base comm coordinator dataset nn worker"
source_folders="$library_folders launch tests bench"

while [ $# -gt 0 ]; do
    case $1 in
    --self-test) mode=self_test ;;
    --root)
        [ $# -ge 2 ] || { echo "$0: --root wants a folder" >&2; exit 2; }
        root=$2
        shift
        ;;
    *)
        echo "usage: $0 [--root FOLDER | --self-test]" >&2
        exit 2
        ;;
    esac
    shift
done

found() {
    echo "$1"
    n_found=$((n_found + 1))
}

# C files of the folders given, relative to the root, sorted.
c_files() {
    local folder
    for folder in "$@"; do
        [ -d "$root/$folder" ] && (cd "$root" && find "$folder" -type f -name '*.[ch]')
    done | sort
}

finish() {
    if [ "$n_found" -gt 0 ]; then
        echo "$(basename "$0"): $n_found found"
        exit 1
    fi
    exit 0
}

# --- Self-test: plant PATH TEXT writes a file into a fresh tree, expect CODE WHY runs the check.
new_tree() {
    tree=$(mktemp -d "${TMPDIR:-/tmp}/convoy-lint-XXXXXX") || exit 2
    trees="${trees:-} $tree"
    trap 'rm -rf $trees' EXIT
}

plant() {
    mkdir -p "$tree/$(dirname "$1")" || exit 2
    printf '%s\n' "$2" >"$tree/$1" || exit 2
}

expect() {
    local got=0 said
    said=$("$0" --root "$tree" 2>&1) || got=$?
    if [ "$got" -ne "$1" ]; then
        found "self-test: $2: exit code $got, expected $1; it said: $said"
    fi
}
