use super::*;
use crate::observe::line::tests::RECORD;
use crate::observe::pump::Output;
use crate::observe::writer::{Writer, tests::Sink};

const ERROR: ErrorRecord<'static> = ErrorRecord {
    at_unix_us: 1_795_482_123_456_789,
    request_host: b"example.com.ccnproxy-https",
    request_path: b"/a%20b",
    proxy_host: b"example.com",
    proxy_scheme: "https",
    proxy_id: b"dc27s1hksdu8cno2j5lg",
    error: "connect to \"192.0.2.1:443\": refused",
    phase: "connect",
    party: "origin",
};

/// What a sink for `to` puts on stderr and stdout while `f` uses it.
fn written(to: AccessLogTo, f: impl FnOnce(&mut LogSink)) -> (String, String) {
    let (stderr, stdout) = (Sink::open(), Sink::open());
    let writer = Writer::start_on(stderr.clone(), Some(Output::stream("stdout", stdout.clone())))
        .expect("threads");
    let mut sink = LogSink::new(writer.handle(), &to, LogFormat::Json, 0);
    f(&mut sink);
    assert_eq!(writer.finish(Duration::from_secs(20)), 0);
    (stderr.text(), stdout.text())
}

#[test]
fn a_failed_request_goes_to_stderr_wherever_the_access_log_goes() {
    let expected = concat!(
        r#"{"level":"error","ts":1795482123.456789,"msg":"ErrorFromProxy","#,
        r#""request_host":"example.com.ccnproxy-https","request_path":"/a b","#,
        r#""proxy_host":"example.com","proxy_scheme":"https","#,
        r#""proxy_id":"dc27s1hksdu8cno2j5lg","#,
        r#""error":"connect to \"192.0.2.1:443\": refused","#,
        r#""phase":"connect","party":"origin"}"#,
        "\n"
    );
    for to in [AccessLogTo::Off, AccessLogTo::Stdout, AccessLogTo::Stderr] {
        let (stderr, stdout) = written(to, |sink| {
            sink.error(&ERROR);
            sink.flush();
        });
        assert_eq!((stderr.as_str(), stdout.as_str()), (expected, ""));
    }
}

#[test]
fn stdout_and_off_are_obeyed() {
    let use_it = |sink: &mut LogSink| {
        sink.record(&RECORD);
        sink.flush();
    };
    let (stderr, stdout) = written(AccessLogTo::Stdout, use_it);
    assert_eq!((stderr.len(), stdout.lines().count()), (0, 1));
    let (stderr, stdout) = written(AccessLogTo::Off, |sink| {
        assert!(!sink.enabled());
        use_it(sink);
    });
    assert_eq!((stderr.len(), stdout.len()), (0, 0));
}

#[test]
fn lines_leave_at_a_full_batch_or_at_a_flush_and_not_before() {
    let mut lines = 0;
    let (stderr, _) = written(AccessLogTo::Stderr, |sink| {
        while sink.access.as_ref().is_some_and(|batch| batch.lines == lines) {
            lines += 1;
            sink.record(&RECORD);
        }
        assert!(lines > 50, "{lines} lines made a batch");
        sink.record(&RECORD); // Not flushed: does not come out.
    });
    assert_eq!(stderr.lines().count() as u64, lines);
    assert!(stderr.len() >= LOG_BATCH_BYTES);
}
