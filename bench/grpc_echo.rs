//! The transport alone: a session core whose handlers answer with their request, for load tools to measure.
//!
//! `cargo bench --bench grpc_echo -- 127.0.0.1:2390 [CPU]`, then
//! `h2load -c10 -m10 -n100000 -d range.bin -H 'content-type: application/grpc' -H 'te: trailers'
//! http://127.0.0.1:2390/etcdserverpb.KV/Range`. On SIGTERM nothing is tidied up.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};
use kevel::server::boot::listener::{self, Desk, Services};
use kevel::server::grpc::counters::Counters;
use kevel::server::grpc::{Api, Call, Core, Incoming, Method, Outgoing, Responder, Settings};
use kevel::server::io::accept::Admission;
use kevel::server::io::stop::Stop;
use kevel::server::io::turns::Turns;
use kevel::server::io::{process, socket, task};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Range echoes, Put echoes from a task, LeaseLeases answers 540 000 bytes in slices.
struct Echo;

const LIST_BYTES: usize = 540_000;
const SLICE_BYTES: usize = 64 * 1024;

impl Api for Echo {
    fn unary(&self, call: Call, message: Bytes, reply: Responder) {
        match call.method {
            Method::LeaseLeases => {
                let Some(mut answer) = reply.stream(LIST_BYTES) else { return };
                task::spawn(async move {
                    while answer.left() > 0 {
                        let Ok(room) = poll_fn(|cx| answer.poll_room(cx)).await else { return };
                        answer.write(vec![b'x'; room.min(answer.left()).min(SLICE_BYTES)].into());
                    }
                    answer.finish();
                });
            }
            Method::Put => task::spawn(async move {
                task::yield_now().await;
                reply.send(Ok(message));
            }),
            _ => reply.send(Ok(message)),
        }
    }

    fn stream(&self, _call: Call, mut incoming: Incoming, mut outgoing: Outgoing) {
        task::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if outgoing.send(message).is_err() {
                    break;
                }
            }
            outgoing.finish(Ok(()));
        });
    }
}

fn main() {
    process::early_init();
    // cargo bench adds `--bench`.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(address) = arguments.first() else {
        println!("usage: grpc_echo ADDRESS [CPU]");
        return;
    };
    let address = address.parse().expect("an address such as 127.0.0.1:2390");
    let placement =
        arguments.get(1).map_or(Placement::Unbound, |cpu| Placement::Fixed(cpu.parse().expect("a CPU")));
    let builder = LocalExecutorBuilder::new(placement).io_memory(1 << 20).ring_depth(512);
    builder.make().expect("an executor").run(async move {
        let core = Core::new(Rc::new(Echo), Settings::default(), Counters::new());
        let stop = Stop::new();
        let services = Services {
            grpc: Some(core),
            admin: None,
            stop: stop.clone(),
            turns: Turns::start(),
            security: None,
        };
        let listener = socket::accept_on(socket::listen(address, false).expect("a free address"));
        println!("serving on {address}, process {}", std::process::id());
        listener::listen(listener, Admission::from_descriptor_limit(), stop, Desk::new(services)).await;
    });
}
