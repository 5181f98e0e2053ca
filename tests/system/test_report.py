#!/usr/bin/env python3
"""The report of a run: one page that needs nothing else, whose figures are those of evaluation and
metrics; the same when made again; and one of a run that was killed."""

import base64
import html.parser
import json
import os
import re
import shutil
import signal
import struct

from convoy_system import (check, kill_tree, lines, make_dataset, newest_checkpoint, read, run, say, start,
                           start_train, train, wait_for_step, write_job)

VOID = {"meta", "img", "br", "line", "circle", "polyline", "link", "input", "hr"}
STEPS, HARDEST, CLASSES = 60, 12, 10


class Page(html.parser.HTMLParser):
    """What is on a page; and that it is well formed."""

    def __init__(self, text):
        super().__init__()
        self.open_tags, self.sources, self.headings, self.lines = [], [], [], []
        self.tables, self.charts, self.cards = [], {}, {}
        self.feed(text)
        check(self.open_tags == [], "never closed: %s" % self.open_tags)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sources += [value for name, value in attrs.items()
                         if name in ("src", "href", "srcset", "xlink:href", "data", "action")]
        if tag == "polyline":
            self.charts[self.chart].append(attrs["points"].split())
        if tag == "svg":
            self.chart = attrs["aria-label"]
            self.charts[self.chart] = []
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        check(self.open_tags and self.open_tags[-1] == tag, "</%s> within %s" % (tag, self.open_tags))
        self.open_tags.pop()

    def handle_data(self, data):
        inside = self.open_tags[-1] if self.open_tags else ""
        if inside == "h2":
            self.headings.append(data)
        if self.tables and ("td" in self.open_tags or "th" in self.open_tags):
            self.tables[-1][-1][-1] += data
        if self.open_tags[-2:] == ["div", "b"]:
            self.card = data
        elif inside == "div" and getattr(self, "card", None) is not None:
            self.cards[data] = self.card
            self.card = None

    def table_with(self, *heads):
        for table in self.tables:
            if table and table[0][:len(heads)] == list(heads):
                return table
        check(False, "no table with columns %s" % (heads,))


def check_contained(page, text):
    """Nothing on it is fetched from anywhere."""
    for source in page.sources:
        check(source.startswith("data:image/png;base64,"), "it fetches %s" % source[:80])
    for bad in ("http://", "https://", "<script", "@import", "url(", "//cdn"):
        check(bad not in text.replace("http://www.w3.org/2000/svg", ""), "it contains '%s'" % bad)


def check_pictures(page, evaluation, size):
    check(len(page.sources) == HARDEST == len(evaluation["hardest"]), "%d pictures" % len(page.sources))
    for source in page.sources:
        png = base64.b64decode(source.split(",", 1)[1], validate=True)
        check(png[:8] == b"\x89PNG\r\n\x1a\n" and png[-8:-4] == b"IEND", "a picture is no PNG")
        check(struct.unpack(">2I", png[16:24]) == (size, size), "a picture of another size")


def check_page(folder, evaluation, size):
    text = read(folder + "/report.html").decode()
    page = Page(text)
    check_contained(page, text)
    check_pictures(page, evaluation, size)
    for heading in ("Curves", "Hardest images", "Confusion matrix", "Classes", "Calibration",
                    "Where the time went", "Workers", "Events", "Environment", "Job"):
        check(heading in page.headings, "no section '%s' among %s" % (heading, page.headings))
    n_lines = len(lines(folder + "/metrics.jsonl"))
    for title in ("Loss", "Top-1 accuracy", "Learning rate", "Throughput, images/s"):
        check(title in page.charts, "no curve '%s' among %s" % (title, list(page.charts)))
        check(len(page.charts[title][0]) == n_lines, "curve '%s' has %d points, there are %d lines" %
              (title, len(page.charts[title][0]), n_lines))
    n_evaluations = len([e for e in lines(folder + "/events.jsonl") if e["event"] == "evaluated"])
    check(len(page.charts["Loss"][1]) == n_evaluations > 1, "evaluations in the curve")
    names = [c["name"] for c in evaluation["classes"]]
    matrix = page.table_with("", *names)
    counts = [[int(cell) for cell in row[1:]] for row in matrix[1:]]
    check(counts == evaluation["confusion"]["counts"], "another confusion matrix: %s" % counts)
    table = page.table_with("class", "n", "predicted", "precision", "recall", "F1")
    check(len(table) == 1 + CLASSES, "%d rows of classes" % len(table))
    for row, c in zip(table[1:], evaluation["classes"]):
        shares = ["none" if c[k] is None else "%.2f %%" % (100 * c[k]) for k in ("precision", "recall", "f1")]
        check(row == [c["name"], str(c["n"]), str(c["n_predicted"])] + shares, "%s, not %s" % (row, c))
    check(page.cards["validation top-1"] == "%.2f %%" % (100 * evaluation["top1"]), str(page.cards))
    check(page.cards["steps"] == str(STEPS), str(page.cards))
    check(len(page.table_with("rank", "host")) == 3, "not two workers")


def check_json(folder, evaluation):
    report = json.loads(read(folder + "/report.json"))
    check(report["status"] == "finished" and report["launches"] == 1, str(report["status"]))
    check(report["metrics"] == lines(folder + "/metrics.jsonl"), "other metrics")
    check(report["last_evaluation"] == evaluation, "another evaluation")
    evaluations = sorted(os.listdir(folder + "/eval"))
    check(len(report["evaluations"]) == len(evaluations), "%d evaluations" % len(report["evaluations"]))
    for summary, name in zip(report["evaluations"], evaluations):
        whole = json.loads(read(folder + "/eval/" + name))
        check(all(whole[key] == value for key, value in summary.items()), "%s: %s" % (name, summary))
    check(report["job"] == read(folder + "/job.yaml").decode(), "another job")
    rates = sorted(line["images_per_s"] for line in report["metrics"])
    check(report["throughput"]["images_per_s_median"] in rates, "no median")
    check(rates[0] == report["throughput"]["images_per_s_min"], "no minimum")
    train_s = sum(line["step_time_s"] * line["steps"] for line in report["metrics"])
    check(abs(report["throughput"]["train_s"] - train_s) < 1e-6 * train_s, "another time")


def check_again(folder):
    before = [read(folder + "/" + name) for name in ("report.json", "report.html")]
    for name in ("report.json", "report.html"):
        os.unlink(folder + "/" + name)
    result = run(["report", folder])
    check(result.returncode == 0 and result.stdout == folder + "/report.html\n", result.stderr)
    after = [read(folder + "/" + name) for name in ("report.json", "report.html")]
    check(before == after, "made again it differs")


def check_killed():
    process = start_train(workers=2, sets=["run=killed", "steps=100000"])
    wait_for_step(40, "killed", process=process)
    kill_tree(process.pid)
    process.wait()
    check(process.returncode == -signal.SIGKILL, "it ended by itself")
    check(not os.path.exists("killed/report.html"), "a report before the end?")
    result = run(["report", "killed"])
    check(result.returncode == 0, result.stderr)
    report = json.loads(read("killed/report.json"))
    check(report["status"] == "unfinished", report["status"])
    check(report["metrics"][-1]["step"] >= 40, "no metrics")
    text = read("killed/report.html").decode()
    page = Page(text)
    check_contained(page, text)
    check(len(page.charts["Loss"][0]) > 0, "no curve")
    check("unfinished" in text, "it does not say that it is unfinished")


def check_odd(folder):
    """Names are text, not markup; what is missing is said; what is no run folder is refused."""
    shutil.copytree(folder, "odd")
    for name in os.listdir("odd/eval"):
        with open("odd/eval/" + name) as f:
            evaluation = json.load(f)
        evaluation["classes"][3]["name"] = "<img src=x onerror=alert(1)>&\"'"
        with open("odd/eval/" + name, "w") as f:
            json.dump(evaluation, f)
    os.rename("val.lmdb", "moved.lmdb")
    result = run(["report", "odd"])
    os.rename("moved.lmdb", "val.lmdb")
    check(result.returncode == 0, result.stderr)
    check(len(result.stderr.splitlines()) == 1 and "val.lmdb" in result.stderr, result.stderr)
    text = read("odd/report.html").decode()
    page = Page(text)
    check(page.sources == [], "pictures without a dataset: %s" % page.sources)
    check(any("<img src=x onerror=alert(1)>&\"'" in cell for t in page.tables for row in t for cell in row),
          "the odd name is not shown")
    check("could not be opened" in text, "it does not say why there are no pictures")
    result = run(["report", "train.lmdb"])
    check(result.returncode != 0 and "is train.lmdb a run folder?" in result.stderr, result.stderr)


def main():
    start()
    make_dataset("train.lmdb", 700)
    make_dataset("val.lmdb", 200, seed=2)
    write_job(steps=str(STEPS), metrics_every_steps="2",
              evaluate="{every_steps: 20, every_epochs: 0, minibatch: 64, hardest: %d}" % HARDEST)
    result = train(workers=2)
    check(result.returncode == 0, result.stderr)
    check("report.html" in result.stderr, "where the report is was not said")
    evaluation = json.loads(read("run/eval/%s-val.json" % os.path.basename(newest_checkpoint())))
    check_page("run", evaluation, 12)
    check_json("run", evaluation)
    check_again("run")
    check_killed()
    check_odd("run")
    say("%d bytes of report, %d pictures in it" % (os.path.getsize("run/report.html"), HARDEST))


main()
