//! The header blocks of answers. What is the same in every answer is built once and cloned.
#![forbid(unsafe_code)]

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::status::{Code, Status, escape};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Header maps to clone.
pub struct Templates {
    headers: HeaderMap,
    trailers: HeaderMap,
}

impl Default for Templates {
    fn default() -> Self {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static(Code::Ok.digits()));
        Self { headers, trailers }
    }
}

impl Templates {
    /// The head of an answer that has messages.
    pub fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.headers_mut() = self.headers.clone();
        response
    }

    /// The whole of an answer that has none.
    pub fn refusal(&self, http: StatusCode, status: &Status) -> Response<()> {
        let mut response = self.head();
        *response.status_mut() = http;
        write_status(response.headers_mut(), status);
        response
    }

    /// The end of an answer that has messages.
    pub fn trailers(&self, result: Result<(), &Status>) -> HeaderMap {
        let mut trailers = self.trailers.clone();
        if let Err(status) = result {
            write_status(&mut trailers, status);
        }
        trailers
    }
}

fn write_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status.code.digits()));
    if !status.message.is_empty() {
        let message = HeaderValue::from_str(&escape(&status.message));
        headers.insert(GRPC_MESSAGE, message.expect("an escaped message is printable ASCII"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_its_code_and_its_escaped_text() {
        let templates = Templates::default();
        let status = Status::new(Code::Unavailable, "no\nleader");
        let response = templates.refusal(StatusCode::OK, &status);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no%0Aleader");
        assert_eq!(templates.trailers(Err(&status))["grpc-status"], "14");
        assert_eq!(templates.trailers(Ok(()))["grpc-status"], "0");
        assert_eq!(templates.head().headers()["content-type"], "application/grpc");
    }
}
