//! HTTP/1.1 connections.
//!
//! ```text
//!   connection   heads parsed by httparse, keep-alive, bounded heads and bodies, answers
//! ```
#![forbid(unsafe_code)]

pub mod connection;
