"""The small parts of scripts/bench: the gate, the plan, what is read from tools, tables and charts."""

import io
import os
import socket
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from contextlib import redirect_stderr, redirect_stdout

ROOT = os.path.abspath(f"{os.path.dirname(__file__)}/../..")
os.environ.setdefault("ROOT", ROOT)
sys.path[:0] = [f"{ROOT}/scripts/support/bench", f"{ROOT}/scripts/support"]

import accounting  # noqa: E402
import counts  # noqa: E402
import instructions  # noqa: E402
import load  # noqa: E402
import measure  # noqa: E402
import options  # noqa: E402
import plots  # noqa: E402
import responses  # noqa: E402
import run_folder  # noqa: E402
import summary  # noqa: E402
import svg  # noqa: E402
import syscalls  # noqa: E402
from peers import OURS  # noqa: E402

HERE = {"compiler": "rustc 1", "libc": "glibc 2", "cpu": "x86_64 avx2"}
ELSEWHERE = {**HERE, "compiler": "rustc 2"}


def wrong(then, now, where=None):
    return counts.compare((HERE, then), (where or HERE, now))[1]


def cost_row(peer, number, cpu_us, c=64):
    row = {"section": "cost", "peer": peer, "round": number, "cpu_us": cpu_us, "c": c, "origin": "http"}
    row |= {"body": 2, "log": "off", "load": "wrk", "rate": 100, "cpu_share": 0.5, "rss_kib": 2048}
    return row | {f"p{p}": 10 for p in load.PERCENTILES}


class Gate(unittest.TestCase):
    def test_committed_baseline_holds_and_a_doctored_one_fails(self):
        where, then = counts.read(f"{ROOT}/benches/baseline.tsv")
        self.assertGreater(len(then), 10)
        self.assertEqual(counts.compare((where, then), (where, then)), ([], []))
        for case, count in then.items():
            doctored = {**then, case: count - max(count // 10, counts.SLACK_INSTRUCTIONS + 1)}
            moved, failed = counts.compare((where, doctored), (where, then))
            self.assertEqual((moved, len(failed)), ([], 1), case)
            self.assertTrue(failed[0].startswith(f"{case}: "), failed)

    def test_check_says_what_failed(self):
        where, then = counts.read(f"{ROOT}/benches/baseline.tsv")
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/baseline.tsv"
            counts.write(path, counts.surroundings(), then)
            dearer = {**then, "request_parse": then["request_parse"] * 5 // 4}
            with redirect_stdout(io.StringIO()) as said:
                self.assertTrue(counts.check(path, then))
                self.assertFalse(counts.check(path, dearer))
        self.assertIn("beyond its tolerance: request_parse: ", said.getvalue())

    def test_tolerance_at_the_bound_and_one_past(self):
        self.assertEqual(wrong({"a": 10_000}, {"a": 10_300}), [])
        self.assertEqual(len(wrong({"a": 10_000}, {"a": 10_301})), 1)

    def test_other_compiler_gets_the_wider_tolerance_and_no_more(self):
        self.assertEqual(wrong({"a": 10_000}, {"a": 11_200}, ELSEWHERE), [])
        self.assertEqual(len(wrong({"a": 10_000}, {"a": 11_500}, ELSEWHERE)), 1)

    def test_short_case_has_some_instructions_of_slack(self):
        self.assertEqual(wrong({"a": 20}, {"a": 28}), [])
        self.assertEqual(len(wrong({"a": 20}, {"a": 29})), 1)

    def test_cheaper_passes_and_is_told(self):
        self.assertEqual(counts.compare((HERE, {"a": 1000}), (HERE, {"a": 500})), (["a: 1,000 -> 500 (-50.0%)"], []))

    def test_case_on_one_side_only_fails(self):
        self.assertEqual(len(wrong({"a": 1}, {"b": 1})), 2)


class Busy(unittest.TestCase):
    def test_ticks_of_the_named_cpus_count_and_idle_or_waiting_ones_are_not_busy(self):
        lines = [
            "cpu  9 9 9 9 9 9 9 9 9 9",
            "cpu0 1 2 3 40 5 6 7 8 1 2",
            "cpu1 10 0 0 90 0 0 0 0 0 0",
            "cpu10 7 7 7 7 7 7 7 7 7 7",
            "intr 5 6",
        ]
        self.assertEqual(accounting.ticks_of(lines, {0}), (27, 72))
        self.assertEqual(accounting.ticks_of(lines, {0, 1}), (37, 172))

    def test_this_machine_counts_on(self):
        cpus = os.sched_getaffinity(0)
        busy, total = accounting.cpu_ticks(cpus)
        later = accounting.cpu_ticks(cpus)
        self.assertLessEqual((0, 0, busy, total), (busy, total, *later))
        self.assertGreater(total, busy)


class Rounds(unittest.TestCase):
    def test_each_side_of_open_loop_comes_first_in_turn(self):
        rounds = [measure.rotated("abc", number) for number in range(4)]
        self.assertEqual(["".join(one) for one in rounds], ["abc", "bca", "cab", "abc"])
        self.assertEqual(measure.rotated([], 3), [])

    def test_open_loop_has_more_rounds_than_cost_and_an_odd_number(self):
        rounds = [options.open_rounds(number) for number in (1, 2, 15)]
        self.assertEqual(rounds, [5, 9, options.OPEN_ROUNDS_MAX])


class Flags(unittest.TestCase):
    def test_sizes_grow(self):
        sizes = [len(self.plan(*flags).cells) for flags in (["--quick"], [], ["--all"])]
        self.assertEqual(sizes, sorted(sizes))
        self.assertEqual(len(self.plan("--all").cells), 3 * 4 * 5 + 3 * 2 + 3 * 3 + 3)
        self.assertEqual({c.connections for c in self.plan("--all").cells if c.body == options.LONG_BODY}, {1, 4})

    def test_axes_make_a_product(self):
        plan = self.plan("--origins", "http", "--bodies", "2 64k", "--connections", "1,16")
        self.assertEqual([(c.body, c.connections) for c in plan.cells], [(2, 1), (2, 16), (65536, 1), (65536, 16)])

    def test_run_is_long_enough_for_what_is_under_way(self):
        usual, bulk = (options.Cell("http", body, 1024, "off", "wrk") for body in (2, 1024 * 1024))
        self.assertEqual((usual.seconds(1), usual.rounds(3)), (1, 3))
        self.assertEqual((bulk.seconds(1), bulk.rounds(3)), (4, 1))
        self.assertEqual(options.Cell("http", 2, 64, "off", "wrk").rounds(3), 6)

    def test_mistakes_end_with_status_2(self):
        wrong_ones = ("--origins ftp", "--rounds 0", "--peer x", "--peer-host x=y", "--budget -1", "--bodies 65m")
        for flags in map(str.split, wrong_ones):
            with self.subTest(flags), redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as ended:
                options.parse(flags)
            self.assertEqual(ended.exception.code, 2)

    def plan(self, *flags):
        return options.plan(options.parse(list(flags)))


class Readings(unittest.TestCase):
    def test_oha_report_counts_wrong_answers_but_not_the_deadline(self):
        percentiles = {f"p{p}": 0.001 for p in load.PERCENTILES}
        got = {"statusCodeDistribution": {"200": 90, "502": 10}, "latencyPercentiles": percentiles}
        got |= {"errorDistribution": {"aborted due to deadline": 4, "connection refused": 3}}
        report = load.oha_report({**got, "summary": {"total": 2.0, "totalData": 200}})
        self.assertEqual((report.requests, report.errors, report.rate), (100, 13, 50.0))
        self.assertEqual(report.latency_us["99.9"], 1000)

    def test_locked_instructions_are_read_by_function(self):
        text = "Ge\n142,306 (100.0%)  PROGRAM TOTALS\n\nGe                file:function\n"
        text += "142,306 (100.0%)  ./x/clone.S:clone [/usr/lib/libc.so.6]\n"
        text += " 51,724 (36.35%)  /rustc/1/core/src/sync/atomic.rs:monoio::task::raw::poll\n"
        text += "    166 ( 0.12%)  /a/mimalloc.h:mi_page [/b/chocon-uring]\n      1 ( 0.00%)  /a/other.h:mi_page\n"
        by_function = instructions.read_locked(text)
        self.assertEqual(by_function, [("monoio::task::raw::poll", 51724), ("mi_page", 167)])
        got = instructions.Counts(10_000, 10, 52_000, by_function)
        self.assertEqual(instructions.shares(got), "monoio::task::raw::poll 5.17, all others 0.03")

    def test_one_locked_instruction_more_a_request_is_beyond_the_tolerance(self):
        _, then = counts.read(f"{ROOT}/benches/baseline.tsv")
        for case in ("locked_http", "locked_https"):
            self.assertEqual(len(wrong(then, {**then, case: then[case] + 100})), 1, case)

    def test_strace_table_is_read_with_and_without_errors(self):
        text = "% time     seconds  usecs/call     calls    errors syscall\n------ ------\n"
        text += " 60.00    0.002000           2      1000           io_uring_enter\n"
        text += " 40.00    0.001000           1       500         7 recvfrom\n"
        text += "100.00    0.003000           2      1500         7 total\n"
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            self.assertEqual(syscalls.parsed(file.name), {"io_uring_enter": 1000, "recvfrom": 500})


class Clients(unittest.TestCase):
    def test_fifty_thousand_come_from_as_many_addresses_as_their_ports_need(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            for nth, address in ((0, "127.0.0.1"), (19_999, "127.0.0.1"), (20_000, "127.0.0.2"), (49_999, "127.0.0.3")):
                with responses.connect(server.getsockname()[1], nth):
                    accepted, (peer, _) = server.accept()
                    accepted.close()
                    self.assertEqual(peer, address, nth)


class Output(unittest.TestCase):
    def test_ratio_is_the_median_and_spread_of_neighbours(self):
        ours = [cost_row("a", n, us) for n, us in enumerate((10, 12, 11))]
        theirs = [cost_row("b", n, us) for n, us in enumerate((20, 20, 22))]
        self.assertEqual(summary.ratio(ours, theirs), "**0.50** (0.50–0.60)")

    def test_any_peer_but_those_named_is_a_reference(self):
        rows = [cost_row(peer, 0, us) for peer, us in ((OURS, 10), ("haproxy", 20), ("mine", 40))]
        (text,) = summary.cost_tables(rows)
        self.assertTrue(text.endswith("| 10.0 ± 0.0 | 20.0 ± 0.0 | 40.0 ± 0.0 | **0.25** (0.25–0.25) |"), text)

    def test_http2_is_told_beside_http1_of_the_same_round(self):
        over_tls = [{**cost_row("a", n, us), "origin": "https"} for n, us in enumerate((10, 40))]
        over_h2 = [{**cost_row("a", n, us), "origin": "h2"} for n, us in enumerate((11, 36))]
        (text,) = summary.protocol_tables(over_tls + over_h2)
        self.assertTrue(text.endswith("| 25.0 ± 15.0 | 23.5 ± 12.5 | **1.00** (0.90–1.10) |"), text)
        self.assertEqual(list(summary.protocol_tables(over_h2)), [])

    def test_bulk_is_told_in_bytes_a_cpu_second(self):
        rows = [{**cost_row(peer, 0, us), "body": 1024 * 1024} for peer, us in ((OURS, 500), ("nginx", 1000))]
        (text,) = summary.bulk_tables([*rows, cost_row(OURS, 0, 10)])
        self.assertTrue(text.endswith("| http | 1 MiB | 64 | wrk | 2.10 | 1.05 | **2.00** |"), text)

    def test_log_is_told_beside_none_of_the_same_round(self):
        rows = [cost_row("a", 0, 10), {**cost_row("a", 0, 11), "log": "file"}]
        (text,) = summary.log_tables(rows)
        self.assertTrue(text.endswith("| 10.0 ± 0.0 | 11.0 ± 0.0 | **1.10** (1.10–1.10) |"), text)

    def test_peer_that_was_not_measured_has_a_dash(self):
        self.assertEqual((summary.cost([]), summary.ratio([cost_row("a", 0, 1)], None)), ("–", "–"))

    def test_charts_are_xml_with_a_mark_for_each_point(self):
        rows = [cost_row(peer, 0, c / 7, c) for peer in ("a", "b<&") for c in (1, 64, 256)]
        (name, text), = plots.draw(rows)
        self.assertEqual(name, "cost-http.svg")
        lines = xml.fromstring(text).findall("{http://www.w3.org/2000/svg}polyline")
        self.assertEqual([len(line.get("points").split()) for line in lines], [3, 3])

    def test_ticks_enclose_what_they_scale(self):
        for highest in (0.3, 7, 12.4, 9999):
            ticks = svg.linear_ticks(highest)
            self.assertGreaterEqual(ticks[-1][0] * 1.000001, highest)
            self.assertLessEqual(len(ticks), 8)
        self.assertEqual([value for value, _ in svg.log_ticks(30, 900)], [20, 50, 100, 200, 500, 1000])
        self.assertEqual([value for value, _ in svg.log_ticks(1000, 1000)], [1000, 2000])

    def test_publishing_changes_what_is_between_the_marks_only(self):
        with tempfile.TemporaryDirectory() as directory:
            perf = f"{directory}/PERF.md"
            run_folder.put(perf, "before\n{}\nold\n{}\nafter\n".format(*run_folder.MARKS))
            run_folder.publish(perf, f"{directory}/runs/x", ["new \\1"], [("a.svg", "")])
            with open(perf, encoding="utf-8") as file:
                text = file.read()
        self.assertTrue(text.startswith("before\n<!--") and text.endswith("-->\nafter\n"))
        self.assertIn("new \\1", text)
        self.assertIn("![a](runs/x/a.svg)", text)
        self.assertNotIn("old", text)


if __name__ == "__main__":
    unittest.main()
