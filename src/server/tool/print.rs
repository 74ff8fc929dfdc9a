//! The forms in which a status is printed.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::{Failed, STATUS_BAD_FEATURE};
use crate::config::go;
use crate::snapshot::status::Status;

const HEADS: [&str; 5] = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];

/// What is printed of a status in the form that `-w` names.
///
/// # Errors
/// When there is no such form.
pub(super) fn status(status: &Status, form: &str) -> Result<String, Failed> {
    match form {
        "simple" => Ok(format!("{}\n", row(status).join(", "))),
        "json" => Ok(json(status)),
        "fields" => Ok(fields(status)),
        "table" => Ok(table(&row(status))),
        other => Err(refuse(other)),
    }
}

/// Complains of a form before any work is done.
///
/// # Errors
/// When there is no such form.
pub(super) fn check(form: &str) -> Result<(), Failed> {
    match form {
        "simple" | "json" | "fields" | "table" | "protobuf" => Ok(()),
        other => Err(refuse(other)),
    }
}

fn refuse(form: &str) -> Failed {
    let text = match form {
        "protobuf" => "protobuf not supported as output format",
        _ => "unsupported output format",
    };
    Failed::new(STATUS_BAD_FEATURE, text)
}

fn row(status: &Status) -> [String; 5] {
    let Status { hash, revision, keys, bytes, version } = status;
    [format!("{hash:x}"), revision.to_string(), keys.to_string(), go::format_bytes(*bytes), version.clone()]
}

fn json(status: &Status) -> String {
    let Status { hash, revision, keys, bytes, version } = status;
    let version = Value::from(version.as_str());
    format!(
        "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{bytes},\"version\":{version}}}\n"
    )
}

fn fields(status: &Status) -> String {
    let Status { hash, revision, keys, bytes, version } = status;
    format!(
        "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {bytes}\n\"Version\" : {version}\n"
    )
}

/// Heads stand in the middle of their column, values at its right.
fn table(row: &[String; 5]) -> String {
    let widths: Vec<usize> =
        HEADS.iter().zip(row).map(|(head, value)| head.len().max(value.chars().count())).collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let heads: Vec<String> =
        HEADS.iter().zip(&widths).map(|(head, &width)| format!(" {head:^width$} ")).collect();
    let values: Vec<String> =
        row.iter().zip(&widths).map(|(value, &width)| format!(" {value:>width$} ")).collect();
    [
        rule("┌", "┬", "┐"),
        format!("│{}│\n", heads.join("│")),
        rule("├", "┼", "┤"),
        format!("│{}│\n", values.join("│")),
        rule("└", "┴", "┘"),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(form: &str) -> String {
        let found = Status { hash: 47_530_349, revision: 2, keys: 1, bytes: 20_480, version: "3.7.0".into() };
        status(&found, form).unwrap_or_else(|failed| format!("{} {}", failed.status, failed.text))
    }

    /// What etcdutl 3.7.3 prints of such a file.
    #[test]
    fn each_form_is_etcdutls() {
        assert_eq!(printed("simple"), "2d5416d, 2, 1, 20 kB, 3.7.0\n");
        let json = r#"{"hash":47530349,"revision":2,"totalKey":1,"totalSize":20480,"version":"3.7.0"}"#;
        assert_eq!(printed("json"), format!("{json}\n"));
        assert_eq!(
            printed("fields"),
            "\"Hash\" : 47530349\n\"Revision\" : 2\n\"Keys\" : 1\n\"Size\" : 20480\n\"Version\" : 3.7.0\n"
        );
        assert_eq!(
            printed("table"),
            "\
┌─────────┬──────────┬────────────┬────────────┬─────────┐
│  HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├─────────┼──────────┼────────────┼────────────┼─────────┤
│ 2d5416d │        2 │          1 │      20 kB │   3.7.0 │
└─────────┴──────────┴────────────┴────────────┴─────────┘
"
        );
        assert_eq!(printed("protobuf"), "4 protobuf not supported as output format");
        assert_eq!(printed("xml"), "4 unsupported output format");
    }
}
