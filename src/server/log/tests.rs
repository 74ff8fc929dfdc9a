//! Lines as they come out.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::config::LogOutput;

const NOW: Duration = Duration::from_micros(1_795_261_288_465_061);

fn json(line: &Line) -> String {
    line.render(UNIX_EPOCH + NOW, false)
}

#[test]
fn a_line_is_etcds() {
    let line = Line::at(LogLevel::Info, "serving \"x\"\n", "src/server/run.rs", 63)
        .text("address", "127.0.0.1:2379")
        .value("count", 3)
        .value("ok", true)
        .texts("urls", ["a", "b"])
        .duration("took", Duration::from_micros(2344))
        .id("local-member-id", 0xc9ac_9fc8_9eae_9cf7);
    assert_eq!(
        json(&line),
        "{\"level\":\"info\",\"ts\":\"2026-11-21T11:41:28.465061Z\",\"caller\":\"server/run.rs:63\",\
         \"msg\":\"serving \\\"x\\\"\\n\",\"address\":\"127.0.0.1:2379\",\"count\":3,\"ok\":true,\
         \"urls\":[\"a\",\"b\"],\"took\":\"2.344ms\",\"local-member-id\":\"c9ac9fc89eae9cf7\"}\n"
    );
    assert_eq!(
        line.render(UNIX_EPOCH + NOW, true),
        "2026-11-21T11:41:28.465061Z\tinfo\tserver/run.rs:63\tserving \"x\"\\n\t{\"address\":\"127.0.0.1:2379\",\
         \"count\":3,\"ok\":true,\"urls\":[\"a\",\"b\"],\"took\":\"2.344ms\",\
         \"local-member-id\":\"c9ac9fc89eae9cf7\"}\n"
    );
}

#[test]
fn any_text_makes_one_line_of_json() {
    for text in ["", "\u{0}\u{1f}\r\n\t\\\"", "\u{e9}\u{2028}\u{1f600}", "}\n{\"level\":\"fatal\"}"] {
        let line = json(&Line::at(LogLevel::Warn, text, "a.rs", 1).text(text, text).float("nan", f64::NAN));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["msg"].as_str(), value[text].as_str()), (Some(text), Some(text)));
        assert_eq!((value["level"].as_str(), value["caller"].as_str()), (Some("warn"), Some("a.rs:1")));
    }
}

#[test]
fn events_become_lines() {
    use std::sync::{Arc, Mutex};

    /// Collects instead of writing.
    struct Collect(subscriber::Subscriber, Arc<Mutex<Vec<String>>>);
    impl tracing::Subscriber for Collect {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            self.0.enabled(metadata)
        }
        fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            self.0.new_span(span)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            self.1.lock().unwrap().push(json(&subscriber::line_of(event)));
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    let lines = Arc::new(Mutex::new(Vec::new()));
    let collect = Collect(subscriber::Subscriber::new(LogLevel::Info), Arc::clone(&lines));
    tracing::subscriber::with_default(collect, || {
        let error = std::io::Error::other("no route");
        tracing::warn!("remote-addr" = "1.2.3.4:5", count = 2, error = %error, "failed to accept {}", "it");
        tracing::info!(target: "raft", "became leader at term 2");
        tracing::debug!("below the level");
        tracing::info!(target: "h2::codec", "a library");
    });
    let lines: Vec<serde_json::Value> =
        lines.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["msg"], "failed to accept it");
    assert_eq!((&lines[0]["remote-addr"], &lines[0]["count"]), (&"1.2.3.4:5".into(), &2.into()));
    assert_eq!(lines[0]["error"], "no route");
    assert!(lines[0]["caller"].as_str().unwrap().starts_with("log/tests.rs:"));
    assert_eq!(lines[1]["logger"], "raft");
    assert!(lines[2].get("logger").is_none());
}

#[test]
fn lines_reach_a_file_in_order() {
    let path = std::env::temp_dir().join(format!("kevel-log-test-{}", std::process::id()));
    let sink = sink::Sink::open(&[LogOutput::File(path.clone())]).unwrap();
    (0..100).for_each(|n| sink.push(format!("{n}\n")));
    sink.flush(Duration::from_secs(10));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text, (0..100).map(|n| format!("{n}\n")).collect::<String>());
    let nowhere = LogOutput::File("/nonexistent/dir/log".into());
    assert!(
        sink::Sink::open(&[nowhere]).err().unwrap().starts_with("--log-outputs names /nonexistent/dir/log: ")
    );
}
