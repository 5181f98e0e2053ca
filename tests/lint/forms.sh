#!/usr/bin/env bash
# Calls that convoy does not use, files that grew too long, and notes to be done later.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

max_lines=600
# A longer file says why within its first 20 lines, in a comment that has these words.
reason_words="one file because"

# Unbounded or locale-bound text, shells, state found instead of passed: nowhere.
never_calls="sprintf vsprintf strcpy strcat gets system popen rand srand random"
# Ends of the process and writing to stdout: the program's, not the libraries'.
launch_calls="printf puts putchar vprintf exit abort quick_exit MPI_Abort"

# Source without comments and literals, line numbers kept.
code_of() {
    awk '
    {
        out = ""; n = length($0)
        for (i = 1; i <= n; i++) {
            c = substr($0, i, 1); two = substr($0, i, 2)
            if (in_comment) {
                if (two == "*/") { in_comment = 0; i++ }
            } else if (quote != "") {
                if (c == "\\") i++
                else if (c == quote) { quote = ""; out = out "\"" }
            } else if (two == "/*") { in_comment = 1; i++; out = out " " }
            else if (two == "//") break
            else if (c == "\"" || c == "\047") { quote = c; out = out "\"" }
            else out = out c
        }
        if (substr($0, n, 1) != "\\") quote = "" # a literal ends with its line
        print out
    }' "$1"
}

# Lines that call one of the words; members (x.exit, x->exit) and longer names are others.
calls_in() { # FILE WORDS
    local pattern=${2// /|}
    code_of "$root/$1" | grep -nE "(^|[^A-Za-z0-9_.>])($pattern)[[:space:]]*\(" | cut -d: -f1
}

check_calls() { # FILE WORDS WHY
    local line
    for line in $(calls_in "$1" "$2"); do
        found "$1:$line: $3: $(sed -n "${line}p" "$root/$1" | sed 's/^ *//')"
    done
}

check_length() {
    local n_lines
    n_lines=$(wc -l <"$root/$1")
    [ "$n_lines" -le "$max_lines" ] && return
    head -n 20 "$root/$1" | grep -q "$reason_words" && return
    found "$1: $n_lines lines, at most $max_lines without a comment '$reason_words ...' at the top"
}

check_notes() {
    local line
    case $1 in tests/lint/*) return ;; esac # they name what they look for
    for line in $(grep -nwE 'TODO|FIXME|XXX|HACK' "$root/$1" | cut -d: -f1); do
        found "$1:$line: to be done now or not at all: $(sed -n "${line}p" "$root/$1")"
    done
}

check() {
    local file n_files=0
    for file in $(c_files $source_folders); do
        n_files=$((n_files + 1))
        check_calls "$file" "$never_calls" "not used in convoy"
        case $file in
        launch/* | tests/* | bench/*) ;;
        base/status.c) check_calls "$file" "${launch_calls/ abort/}" "belongs in launch" ;;
        *) check_calls "$file" "$launch_calls" "belongs in launch" ;;
        esac
        check_length "$file"
        check_notes "$file"
    done
    [ "$n_files" -gt 0 ] || found "no source was found in $root: is it a checkout?"
}

self_test() {
    local text
    new_tree
    plant base/status.c 'void f(void) { abort(); }'
    plant launch/main.c 'int main(void) { printf("x"); exit(0); }'
    plant nn/a.c '/* exit(1) in a comment, printf( too */
int f(void) { snprintf(a, 1, "system(x) \" abort()"); ops->exit(1); my_rand(); return _exit(3); }
// rand()
char q = '"'\"'"'; /* a quote that opens nothing:
exit(2) */'
    plant nn/b.c "/* In one file because the table and its checks are read together. */
$(yes 'int x;' | head -n 700)"
    expect 0 "a tree without a violation"
    for text in 'printf("x");' 'sprintf(a, "x");' 'strcpy(a, b);' 'system("x");' 'popen("x", "r");' \
        'x = rand();' 'abort();' 'exit (1);' 'MPI_Abort(comm, 1);' '/* TODO: later */' \
        '/* a */ exit(1); /* b */'; do
        new_tree
        plant nn/a.c "void f(void) {
    $text
}"
        expect 1 "$text in nn"
    done
    new_tree
    plant launch/a.c 'void f(void) { strcpy(a, b); }'
    expect 1 "strcpy in launch"
    new_tree
    plant base/status.c 'void f(void) { exit(1); }'
    expect 1 "exit in base/status.c"
    new_tree
    plant tests/nn/test_a.c "$(yes 'int x;' | head -n 601)"
    expect 1 "a file of 601 lines"
    new_tree
    expect 1 "a tree without sources"
}

$mode
finish
