"""What the tests of bad inputs share: asking for a refusal, and making datasets that no importer of
convoy would make, as Caffe's convert_imageset wrote them."""

import os
import re
import subprocess
import sys
import time

from convoy_system import CONVOY, WITH_SANITIZERS, check, lines, say, skip

LIMIT_S = 20 if WITH_SANITIZERS else 5
# Lines of a lower level: of a rank by their mark, of other commands by what they say.
OTHER_LINE = re.compile(r"\S+Z \d+ (info|warn|debug) |convoy: \S+: no manifest.json beside it"
                        r"|convoy: .* records are bad, the first is")
NO_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def tree():
    """All files below the working directory, with what would show that one was written."""
    found = {}
    for folder, folders, files in os.walk("."):
        for name in folders + files:
            path = os.path.join(folder, name)
            about = os.lstat(path)
            if name != "lock.mdb" and os.path.basename(folder) != "refused":
                found[path] = (about.st_mode, about.st_size,
                               0 if name in folders else about.st_mtime_ns)
    return found


def error_lines(stderr):
    return [line for line in stderr.splitlines() if not OTHER_LINE.match(line)]


def refused(code, texts, args=("train", "job.yaml"), sets=(), workers=0, may_write=False, before=(),
            env=None):
    """convoy says one line that holds all texts, ends with this code, at once, and writes nothing."""
    command = list(before) + [CONVOY] + [str(a) for a in args]
    command += ["--workers", str(workers)] if workers else []
    for assignment in sets:
        command += ["--set", assignment]
    files = tree()
    begin = time.monotonic()
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                timeout=60, env=dict(os.environ, **(env or {})))
    except subprocess.TimeoutExpired:
        check(False, "%s hung" % " ".join(command))
    took = time.monotonic() - begin
    shown = "%s: exit %d after %.1f s\n%s" % (" ".join(command), result.returncode, took,
                                              result.stderr)
    check(result.returncode == code, "expected exit %d of %s" % (code, shown))
    found = error_lines(result.stderr)
    check(len(found) == 1, "expected one line of error of %s" % shown)
    for text in texts:
        check(text in found[0], "expected '%s' in the line of %s" % (text, shown))
    check(took <= LIMIT_S, "too slow: " + shown)
    check(may_write or tree() == files, "something was written by %s" % shown)
    say("%d %s" % (code, re.sub(r"^\S+Z ", "", found[0])))
    return result


def as_owner(command_before=()):
    """Words before a command that make the superuser obey permissions."""
    return list(command_before) + (NO_OVERRIDE if os.geteuid() == 0 else [])


# --- Datasets --------------------------------------------------------------------------------------


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number, value):
    return b"" if value is None else varint(number << 3) + varint(value)


def datum(data, label, channels=None, height=None, width=None, encoded=None):
    """A Caffe Datum; a field that is None is left out."""
    payload = b"" if data is None else varint(4 << 3 | 2) + varint(len(data)) + data
    return (number_field(1, channels) + number_field(2, height) + number_field(3, width) + payload
            + number_field(5, label) + number_field(7, encoded))


def raw(data, label, channels=1, height=12, width=12):
    return datum(data, label, channels, height, width)


def write_lmdb(path, records):
    """An LMDB folder of these values under the keys 00000000, 00000001, ..."""
    try:
        import lmdb
    except ImportError:
        skip("python3-lmdb is not installed for %s" % sys.executable)
    os.makedirs(path)
    with lmdb.open(path, map_size=64 << 20) as env, env.begin(write=True) as transaction:
        for i, record in enumerate(records):
            transaction.put(b"%08d" % i, record)
    os.remove(os.path.join(path, "lock.mdb"))


def check_bad_records(folder, stderr, expected):
    """Each bad record was named once, in the log and in events.jsonl, with this in its reason."""
    told = {}
    for event in lines(folder + "/events.jsonl"):
        if event["event"] == "bad_record":
            check(event["record"] not in told, "record %d told twice" % event["record"])
            told[event["record"]] = event["reason"]
    for record in sorted(told):
        say("bad record %d: %s" % (record, told[record]))
    for record, text in sorted(expected.items()):
        check(record in told, "record %d (%s) was taken for good; told: %s" % (record, text, told))
        check(text in told[record], "record %d: '%s' lacks '%s'" % (record, told[record], text))
        times = len(re.findall(r" warn coordinator: \S+: record %d: " % record, stderr))
        check(times == 1, "record %d was named %d times:\n%s" % (record, times, stderr))
    check(sorted(told) == sorted(expected), "bad, but not expected so: %s" % told)
