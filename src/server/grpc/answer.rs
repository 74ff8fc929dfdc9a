//! The header blocks of answers. What is the same in every answer is constant.
#![forbid(unsafe_code)]

use crate::server::call::status::{Code, Status, escape};
use crate::server::gzip;
use crate::server::http2::Fields;

/// The HTTP status of every answer that gRPC itself gives.
pub const HTTP_OK: &str = "200";
const CONTENT_TYPE: (&str, &str) = ("content-type", "application/grpc");
/// The head of an answer that has messages.
pub const HEAD: Fields = Fields::Constant(&[(":status", HTTP_OK), CONTENT_TYPE]);
/// The head of an answer whose messages are packed.
pub const HEAD_PACKED: Fields =
    Fields::Constant(&[(":status", HTTP_OK), CONTENT_TYPE, ("grpc-encoding", gzip::NAME)]);
/// The end of an answer that went well.
pub const OK: Fields = Fields::Constant(&[("grpc-status", Code::Ok.digits())]);

/// The whole of an answer that has no messages.
pub fn refusal(http: &'static str, status: &Status) -> Fields {
    let mut fields = Vec::with_capacity(4);
    fields.push((":status", http.into()));
    fields.push((CONTENT_TYPE.0, CONTENT_TYPE.1.into()));
    push_status(&mut fields, status);
    Fields::Own(fields)
}

/// The end of an answer that has messages.
pub fn trailers(result: Result<(), &Status>) -> Fields {
    match result {
        Ok(()) => OK,
        Err(status) => {
            let mut fields = Vec::with_capacity(2);
            push_status(&mut fields, status);
            Fields::Own(fields)
        }
    }
}

fn push_status(fields: &mut Vec<(&'static str, std::borrow::Cow<'static, str>)>, status: &Status) {
    fields.push(("grpc-status", status.code.digits().into()));
    if !status.message.is_empty() {
        fields.push(("grpc-message", escape(&status.message).into_owned().into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_its_code_and_its_escaped_text() {
        let status = Status::new(Code::Unavailable, "no\nleader");
        let Fields::Own(fields) = refusal(HTTP_OK, &status) else { panic!("not constant") };
        let end = [("grpc-status", "14".into()), ("grpc-message", "no%0Aleader".into())];
        assert_eq!(fields[..2], [(":status", "200".into()), ("content-type", "application/grpc".into())]);
        assert_eq!(fields[2..], end);
        assert!(matches!(trailers(Err(&status)), Fields::Own(fields) if fields == end));
        assert!(matches!(trailers(Ok(())), Fields::Constant(&[("grpc-status", "0")])));
    }
}
