//! One connection and its task: connects, takes turns, connects anew when it breaks.
//!
//! ```text
//!   turn:  read the socket once
//!          repeat while something rang:  h2 takes frames in and out
//!                                        calls with news -> handler
//!                                        handler sends more
//!          write the socket once, sleep until the socket or the handler's alarm
//! ```
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use glommio::net::TcpStream;
use kevel::server::grpc::{Code, Status};
use kevel::server::io::clock;
use kevel::server::io::task::{self, Alarm};
use kevel::stdx::time::{Duration, Instant};

use crate::calls::{Calls, Handler, Next};
use crate::pipe::Pipe;
use crate::ready::Ready;
use crate::run::Run;
use crate::target::Target;

/// How often a turn looks for more before others run.
const ROUNDS_MAX: usize = 64;
const CONNECT_MAX: Duration = Duration::from_secs(10);
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// What h2 may keep of one call's request.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// How a connection is set up.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Calls in flight at most.
    pub calls_max: usize,
    /// Flow-control window of one call, bytes.
    pub window: u32,
    /// Flow-control window of the connection, bytes.
    pub connection_window: u32,
}

type H2 = h2::client::Connection<Pipe, Bytes>;

/// Runs `handler` on connections to `targets[first]`, and when they break to the next, until it is done.
///
/// # Errors
/// When no first connection comes about.
pub async fn drive(
    targets: &[Target],
    first: usize,
    tuning: Tuning,
    run: &Arc<Run>,
    handler: &mut dyn Handler,
) -> Result<(), String> {
    let mut at = first % targets.len();
    let (mut stood, mut was_ready) = (false, false);
    loop {
        let target = &targets[at];
        match connect(target, tuning).await {
            Ok((pipe, h2, mut calls, ready)) => {
                handler.on_connect(clock::now(), &mut calls);
                let turns =
                    Turns { pipe: pipe.clone(), h2, ready, run, alarm: None, was_ready: &mut was_ready };
                match turns.take(&mut calls, handler).await {
                    Ok(()) => return Ok(()),
                    Err(reason) if !stood && !pipe.has_heard() => {
                        return Err(format!("cannot connect to {}: {reason}", target.name));
                    }
                    Err(reason) => {
                        stood = true;
                        let status = Status::new(Code::Unavailable, format!("{}: {reason}", target.name));
                        calls.abandon(clock::now(), &status, handler);
                        run.count_break();
                    }
                }
            }
            Err(reason) if !stood => return Err(format!("cannot connect to {}: {reason}", target.name)),
            Err(_) => {}
        }
        if handler.on_lost(clock::now()) == Next::Done {
            return Ok(());
        }
        task::sleep(RECONNECT_AFTER).await;
        at = (at + 1) % targets.len();
    }
}

async fn connect(target: &Target, tuning: Tuning) -> Result<(Pipe, H2, Calls, Arc<Ready>), String> {
    let connecting = TcpStream::connect(target.address);
    let stream = task::until(clock::now() + CONNECT_MAX, connecting)
        .await
        .ok_or("no answer in 10 s")?
        .map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let pipe = Pipe::new(stream, target.tls()?);
    let (sender, h2) = h2::client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(usize::MAX)
        .initial_window_size(tuning.window)
        .initial_connection_window_size(tuning.connection_window)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .handshake::<_, Bytes>(pipe.clone())
        .await
        .map_err(|error| error.to_string())?;
    let ready = Ready::new(tuning.calls_max);
    let calls = Calls::new(sender, ready.clone(), tuning.calls_max, &target.origin);
    Ok((pipe, h2, calls, ready))
}

struct Turns<'a> {
    pipe: Pipe,
    h2: H2,
    ready: Arc<Ready>,
    run: &'a Arc<Run>,
    alarm: Option<Alarm>,
    /// Whether the connection, or the one before it, was counted as ready.
    was_ready: &'a mut bool,
}

impl Turns<'_> {
    /// Takes turns until the handler is done.
    async fn take(mut self, calls: &mut Calls, handler: &mut dyn Handler) -> Result<(), String> {
        poll_fn(|cx| self.turn(cx, calls, handler)).await
    }

    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        calls: &mut Calls,
        handler: &mut dyn Handler,
    ) -> Poll<Result<(), String>> {
        self.ready.enter(cx.waker());
        let mut more = self.pipe.fill(cx).map_err(|error| error.to_string())?;
        let link = self.ready.link_waker();
        let mut next = Next::Done;
        for round in 0..=ROUNDS_MAX {
            self.ready.take_link();
            if let Poll::Ready(end) = pin!(&mut self.h2).poll(&mut Context::from_waker(&link)) {
                return Poll::Ready(Err(end
                    .err()
                    .map_or("closed by the server".to_owned(), |error| error.to_string())));
            }
            let now = clock::now();
            self.ready.take_calls(|call| calls.poll(call, now, handler));
            next = handler.on_turn(now, calls);
            if !*self.was_ready && handler.is_ready() && self.pipe.has_heard() {
                *self.was_ready = true;
                self.run.count_ready();
            }
            if let Some(error) = calls.take_refused() {
                return Poll::Ready(Err(error.to_string()));
            }
            if !self.ready.leave() {
                break;
            }
            self.ready.enter(cx.waker());
            more |= round == ROUNDS_MAX;
        }
        self.ready.leave();
        self.pipe.push(cx).map_err(|error| error.to_string())?;
        match next {
            Next::Done => return Poll::Ready(Ok(())),
            Next::At(due) => more |= self.rings(cx, due),
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Sets the alarm; true when it rings already.
    fn rings(&mut self, cx: &mut Context<'_>, due: Instant) -> bool {
        match &mut self.alarm {
            Some(alarm) if alarm.due() <= due => {}
            stale => *stale = Some(Alarm::at(due)),
        }
        let rang = self.alarm.as_mut().is_some_and(|alarm| alarm.poll(cx).is_ready());
        if rang {
            self.alarm = None;
        }
        rang
    }
}
