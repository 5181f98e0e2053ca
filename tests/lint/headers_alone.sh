#!/usr/bin/env bash
# Every header compiles alone, and twice. CC and LINT_CFLAGS (include paths of foreign headers and
# of what the build generates) come from the environment; CMake sets them.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

compiler=${CC:-cc}

check() {
    local header said n_headers=0
    command -v "$compiler" >/dev/null || { echo "no compiler $compiler: skipped"; exit 77; }
    for header in $(c_files $source_folders | grep '\.h$'); do
        n_headers=$((n_headers + 1))
        # LINT_CFLAGS is a list of words.
        # shellcheck disable=SC2086
        if ! said=$(printf '#include "%s"\n#include "%s"\nextern int convoy_lint_not_empty;\n' \
            "$header" "$header" | "$compiler" -std=c11 -D_GNU_SOURCE -I"$root" \
            ${LINT_CFLAGS:-} -Wall -Wextra -Wstrict-prototypes -Werror -fsyntax-only -x c - 2>&1); then
            found "$header does not compile alone:
$said"
        fi
    done
    [ "$n_headers" -gt 0 ] || found "no header was found in $root: is it a checkout?"
}

self_test() {
    new_tree
    plant base/good.h '#ifndef GOOD_H
#define GOOD_H
#include <stddef.h>
typedef struct good { size_t n; } good;
#endif'
    expect 0 "a header that includes what it uses"
    plant nn/bad.h '#ifndef BAD_H
#define BAD_H
typedef struct bad { size_t n; } bad;
#endif'
    expect 1 "a header that uses what it does not include"
    new_tree
    plant base/twice.h 'typedef struct twice { int n; } twice;'
    expect 1 "a header without a guard"
    new_tree
    expect 1 "a tree without headers"
}

$mode
finish
