#!/usr/bin/env bash
# The layout of every source file is that of .clang-format. Skipped (77) without clang-format.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

formatter=${CLANG_FORMAT:-clang-format}
if ! command -v "$formatter" >/dev/null; then
    echo "$formatter is not installed: skipped"
    exit 77
fi

check() {
    local file n_files=0
    [ -f "$root/.clang-format" ] || found "$root has no .clang-format"
    for file in $(c_files $source_folders); do
        n_files=$((n_files + 1))
        (cd "$root" && "$formatter" --style=file --dry-run -Werror "$file" >/dev/null 2>&1) ||
            found "$file: layout differs; run clang-format -i $file"
    done
    [ "$n_files" -gt 0 ] || found "no source was found in $root: is it a checkout?"
}

self_test() {
    local style="$root/.clang-format"
    new_tree
    cp "$style" "$tree/.clang-format" || exit 2
    plant base/a.c 'int a;'
    expect 0 "a file in the layout"
    plant base/b.c 'int   b ;'
    expect 1 "a file out of the layout"
    new_tree
    cp "$style" "$tree/.clang-format" || exit 2
    expect 1 "a tree without sources"
}

$mode
finish
